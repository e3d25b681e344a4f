"""Run the kernels on a CPU, in Triton's interpreter: only where TRITON_INTERPRET=1 was set before Triton's import."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.triton.interpreter import repair

    repair()
else:
    collect_ignore_glob = ["test_*.py"]  # `make test-kernels` runs these, in an environment with Triton
