"""The suites: one module each, listed in `registry.py`, whose docstring says how to add one."""
