"""Launching: compute classes and the processes a node runs in."""
