"""Parallel training: what ranks tell each other."""
