"""The suites: one module each, listed in `registry.py`; its docstring says how to add one."""
