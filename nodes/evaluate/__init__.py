"""evaluate: every checkpoint on every suite, one report."""
