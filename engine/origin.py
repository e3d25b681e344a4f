"""Where a measured figure comes from: the commit, and the machine as far as a figure may hang on it."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.processor import processor


def commit() -> str:
    """The commit that was measured, marked where the tree differs from it."""
    asked = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores, Python and torch: what a figure may hang on. No host name."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
