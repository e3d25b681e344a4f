"""Draining: a rank that is asked to end soon leaves at its next checkpoint, and another attempt goes on from there.

Slurm asks with SIGUSR1 some time before it ends a job. Whoever starts the rank hands the signal on, or leaves the file
`drain` in the run directory ($K2_RUN_DIR), where a signal does not reach: one of the two is enough.
"""

import os
import signal
import time
from pathlib import Path

from engine.artifacts.files import write_atomic

RUN_DIR = "K2_RUN_DIR"
"""The variable that names a dispatched node's run directory; unset in any other process."""
DRAIN, DONE = "drain", "DONE"
"""Files there: the request to end soon, and the word that the node's outputs are handed over."""
DRAINED = 85
"""Exit code of a rank that left because it was asked to: nothing failed, and its work is not over."""
LOOK_EVERY_SECONDS = 1.0

_signalled = False
_last_look = -float("inf")


class Drained(SystemExit):
    """Ends the process with exit code DRAINED: its work is safe on disc, but not over."""

    def __init__(self) -> None:
        super().__init__(DRAINED)


def install() -> None:
    """Take SIGUSR1 as the request from now on. First thing in a rank: unhandled, the signal kills."""
    signal.signal(signal.SIGUSR1, _on_signal)


def asked() -> bool:
    """Whether this process has been asked to end soon; costs a look at a flag, and a stat at most once a second."""
    return _signalled or _file_is_there()


def run_directory() -> Path | None:
    """The run directory of the node that this process works for, None where it was not dispatched."""
    named = os.environ.get(RUN_DIR)
    return Path(named) if named else None


def mark_done() -> None:
    """Say in the run directory, if there is one, that the node's outputs are handed over."""
    if directory := run_directory():
        write_atomic(directory / DONE, b"")


def _on_signal(number: int, frame: object) -> None:
    global _signalled  # noqa: PLW0603 - a signal is one a process
    _signalled = True


def _file_is_there() -> bool:
    """Whether the file `drain` has been seen; on a shared file system it may be seen late, so it is asked again."""
    global _signalled, _last_look  # noqa: PLW0603 - as above
    directory, now = run_directory(), time.monotonic()
    if directory is None or now - _last_look < LOOK_EVERY_SECONDS:
        return False
    _last_look = now
    _signalled = (directory / DRAIN).exists()
    return _signalled
