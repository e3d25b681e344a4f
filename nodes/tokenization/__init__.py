"""The tokenization stage: byte-level BPE, K2's special tokens and chat template, packed shards."""
