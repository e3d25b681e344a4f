"""Where a measured figure comes from: the commit, and the parts of the machine that it may depend on."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any


def commit() -> str:
    """Return the measured commit, marked "-dirty" if the tree differs from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return result.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Return processor, cores, Python and torch, on which a figure may depend; never the host name."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def processor() -> str:
    """Return the CPU's model: two CPUs of one capability may still choose different kernels because of their caches."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
