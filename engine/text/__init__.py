"""Text and tokens: tokenizer, chat template, shards, n-gram baselines."""
