"""Launching: compute classes, and the processes in which a node runs."""
