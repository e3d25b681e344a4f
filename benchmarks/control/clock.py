"""Times of commands: wall and user seconds of a process and all that it waited for."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError


def measure(command: Sequence[str], cwd: Path, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a command to its end and return (wall, user) seconds.

    Raises:
        UserError: the command failed, so that its time means nothing.

    """
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"`{' '.join(command)}` failed ({process.returncode}): run it by itself to see why.")
    return wall, usage.ru_utime
