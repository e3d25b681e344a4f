"""Compile the kernels for Hopper: where Triton is, and not under its interpreter, which has no compiler."""

import importlib.util
import os

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]  # `make test-kernels` runs these, in an environment with Triton
