"""tokenization: byte-level BPE, K2 special tokens and chat template, packed shards."""
