"""Where a measured figure comes from: the commit, and the parts of the machine that it may depend on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.processor import processor


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
