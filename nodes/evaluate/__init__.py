"""The evaluate stage: every checkpoint on every suite, one report."""
