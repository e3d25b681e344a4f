"""corpus: four domains read, cleaned, deduplicated, split and described."""
