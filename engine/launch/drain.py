"""Draining: a rank that is asked to end soon leaves at its next checkpoint, and another attempt goes on from there.

Slurm asks with SIGUSR1 some time before it ends a job. Whoever starts the rank hands the signal on, or leaves the file
`drain` in the run directory ($K2_RUN_DIR), where a signal does not reach: one of the two is enough.

Ctrl-C asks as well, for a pause. Work that can leave at a checkpoint says so with `heeded`, and is let come there; any
other is ended at once, since it has nothing to keep. In the driver a second Ctrl-C ends either at once.
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
"""The variable that names a dispatched node's run directory; unset in any other process."""
DRAIN, DONE = "drain", "DONE"
"""Files there: the request to end soon, and the word that the node's outputs are handed over."""
DRAINED = 85
"""Exit code of a rank that left because it was asked to: nothing failed, and its work is not over."""
LOOK_EVERY_SECONDS = 1.0

ANNOUNCEMENT = b"\nCtrl-C: stops at the next checkpoint; Ctrl-C again stops at once\n"

_signalled = _interrupted = False
_heeds = 0
_last_look = -float("inf")


class Drained(SystemExit):
    """Ends the process with exit code DRAINED: its work is safe on disc, but not over."""

    def __init__(self) -> None:
        super().__init__(DRAINED)


class Interrupted(UserError):
    """Ctrl-C stopped a command: a pause, since the same command goes on."""

    exit_code = 130


def install() -> None:
    """Take SIGUSR1 and Ctrl-C as the request from now on. First thing in a rank: unhandled, the signals kill."""
    signal.signal(signal.SIGUSR1, _on_signal)
    signal.signal(signal.SIGINT, _on_interrupt)


def request() -> None:
    """Have `asked` say yes from now on: a worker has heard by other means than a signal that it is to end soon."""
    global _signalled  # noqa: PLW0603 - as of a signal, there is one a process
    _signalled = True


@contextmanager
def pausing() -> Iterator[None]:
    """For a driver's block, take the first Ctrl-C as the request to end soon where it is heeded; any other interrupts.

    Outside of the main thread, which no signal reaches, nothing changes.
    """
    global _signalled, _interrupted  # noqa: PLW0603 - a signal is one a process
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
    """For the block, have Ctrl-C wait until the work looks at `asked`, as it does at each place where it can leave.

    Work that came to its end all the same raises Drained behind it, unless it is to go on `to_the_end`.
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
    """Whether Ctrl-C has asked this process to end soon."""
    return _interrupted


@contextmanager
def deaf_children() -> Iterator[None]:
    """For the block, in which a child is started, ignore Ctrl-C: so does the child, until it says how it takes it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _signalled  # noqa: PLW0603 - as above
    _signalled = True


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C in a rank, sent by the terminal and by its driver, so that all but the first say nothing new."""
    global _signalled, _interrupted
    first, _signalled, _interrupted = not _interrupted, True, True
    if first and not _heeds:
        raise Drained


def _on_press(number: int, frame: FrameType | None) -> None:
    """Ctrl-C in a driver."""
    global _signalled, _interrupted  # noqa: PLW0603 - as above
    if _interrupted or not _heeds:
        raise KeyboardInterrupt
    _signalled = _interrupted = True
    os.write(2, ANNOUNCEMENT)  # a handler may run in the middle of a print


def _file_is_there() -> bool:
    """Whether the file `drain` has been seen; on a shared file system it may be seen late, so it is asked again."""
    global _signalled, _last_look  # noqa: PLW0603 - as above
    directory, now = run_directory(), time.monotonic()
    if directory is None or now - _last_look < LOOK_EVERY_SECONDS:
        return False
    _last_look = now
    _signalled = (directory / DRAIN).exists()
    return _signalled
