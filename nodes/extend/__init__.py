"""The extend stage: long-context anneal, then YaRN."""
