"""Benchmarks: each measures a ratio or a gain in one run against a named baseline. `python -m benchmarks --list`."""
