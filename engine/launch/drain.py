"""Draining: a rank that is asked to end soon leaves at its next checkpoint, and another attempt continues from there.

Slurm asks with SIGUSR1 some time before it ends a job. The rank's parent passes the signal on or, where signals do not
arrive, creates the file `drain` in the run directory ($K2_RUN_DIR); one of the two is enough.

Ctrl-C asks as well, for a pause. Work that can leave at a checkpoint declares it with `heeded` and is allowed to reach
one; any other work is ended at once, since it has nothing to keep. In the driver a second Ctrl-C ends either at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from engine.artifacts.files import write_atomic
from engine.errors import UserError

RUN_DIR = "K2_RUN_DIR"
"""The variable with a dispatched node's run directory; unset in any other process."""
DRAIN, DONE = "drain", "DONE"
"""Files in it: the request to end soon, and the note that the node's outputs are handed over."""
DRAINED = 85
"""Exit code of a rank that left because it was asked to: nothing failed, and its work is not finished."""
LOOK_EVERY_SECONDS = 1.0

ANNOUNCEMENT = b"\nCtrl-C: stops at the next checkpoint; Ctrl-C again stops at once\n"

_signalled = _interrupted = False
_heeds = 0
_last_look = -float("inf")


class Drained(SystemExit):
    """Ends the process with exit code DRAINED: its work is safe on disk, but not finished."""

    def __init__(self) -> None:
        super().__init__(DRAINED)


class Interrupted(UserError):
    """Ctrl-C stopped a command; this is a pause, since the same command continues."""

    exit_code = 130


def install() -> None:
    """Take SIGUSR1 and Ctrl-C as the request. Call it first in a rank, since the unhandled signals kill."""
    signal.signal(signal.SIGUSR1, _on_signal)
    signal.signal(signal.SIGINT, _on_interrupt)


def request() -> None:
    """Make `end_requested` true from now on, for a worker that was asked to end soon by other means than a signal."""
    global _signalled  # noqa: PLW0603 - like a signal, it belongs to the whole process
    _signalled = True


@contextmanager
def pausing() -> Iterator[None]:
    """In a driver's block, take the first Ctrl-C as the request to end soon if the work heeds it; else interrupt.

    Outside of the main thread, which no signal reaches, nothing changes.
    """
    global _signalled, _interrupted  # noqa: PLW0603 - signals belong to the whole process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _on_press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _signalled = _interrupted = False


@contextmanager
def heeded(to_the_end: bool = False) -> Iterator[None]:
    """In the block, make Ctrl-C wait until the work looks at `end_requested`, which it does wherever it can leave.

    Work that nevertheless reaches its end raises Drained after it, unless it is to continue `to_the_end`.
    """
    global _heeds  # noqa: PLW0603 - as above
    _heeds += 1
    try:
        yield
    finally:
        _heeds -= 1
    if _interrupted and not to_the_end:
        raise Drained


def interrupted() -> bool:
    """Return whether Ctrl-C has asked this process to end soon."""
    return _interrupted


@contextmanager
def deaf_children() -> Iterator[None]:
    """In the block, which starts a child, ignore Ctrl-C; the child inherits this until it handles Ctrl-C itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_requested() -> bool:
    """Return whether this process has been asked to end soon; costs a stat at most once a second."""
    return _signalled or _file_is_there()


def run_directory() -> Path | None:
    """Return the run directory of this process's node, None if it was not dispatched."""
    directory = os.environ.get(RUN_DIR)
    return Path(directory) if directory else None


def mark_done() -> None:
    """Record in the run directory, if there is one, that the node's outputs are handed over."""
    if directory := run_directory():
        write_atomic(directory / DONE, b"")


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _signalled  # noqa: PLW0603 - as above
    _signalled = True


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C in a rank; terminal and driver both send it, so only the first counts."""
    global _signalled, _interrupted
    first, _signalled, _interrupted = not _interrupted, True, True
    if first and not _heeds:
        raise Drained


def _on_press(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C in a driver."""
    global _signalled, _interrupted  # noqa: PLW0603 - as above
    if _interrupted or not _heeds:
        raise KeyboardInterrupt
    _signalled = _interrupted = True
    os.write(2, ANNOUNCEMENT)  # not print: a handler may run in the middle of another print


def _file_is_there() -> bool:
    """Return whether the file `drain` exists; a shared file system may show it late, so this looks repeatedly."""
    global _signalled, _last_look  # noqa: PLW0603 - as above
    directory, now = run_directory(), time.monotonic()
    if directory is None or now - _last_look < LOOK_EVERY_SECONDS:
        return False
    _last_look = now
    _signalled = (directory / DRAIN).exists()
    return _signalled
