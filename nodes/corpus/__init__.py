"""The corpus stage: read four domains, clean, deduplicate, split and describe them."""
