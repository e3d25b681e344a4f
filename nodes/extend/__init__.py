"""extend: long-context anneal, then YaRN."""
