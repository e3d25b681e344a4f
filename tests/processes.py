"""Waiting for what other processes bring about: a state, or their end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
PATIENCE_SECONDS = 240.0


def await_state(
    state: Callable[[], Result],
    ended: Callable[[], int | None] = lambda: None,
    output: Callable[[], str] = str,
    every: float = 0.005,
) -> Result:
    """Ask `state` until what it returns is true, and return that.

    Args:
        state: looks at something that another process changes.
        ended: returns the status of that process once it has ended, which fails the test, and None before.
        output: returns what the process has printed, shown where the wait fails.
        every: seconds between two looks.

    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := state()):
        status = ended()
        assert status is None, f"ended with status {status} before that:\n{output()[-4000:]}"
        assert time.monotonic() < deadline, f"not in {PATIENCE_SECONDS:.0f} s:\n{output()[-4000:]}"
        time.sleep(every)
    return result


def is_alive(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(process: int) -> None:
    """Return when a process is gone; pytest's own timeout ends a wait for one that stays."""
    while is_alive(process):
        time.sleep(0.02)
