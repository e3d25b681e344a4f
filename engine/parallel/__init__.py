"""Parallel training: communication between ranks."""
