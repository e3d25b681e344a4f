"""What a test must leave as it was: signal dispositions, environment, working directory, threads and children.

A signal that stays ignored, for one, is inherited by every process that a later test starts, and fails it.
"""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

NOT_OURS = frozenset({"PYTEST_CURRENT_TEST", "_RJEM_MALLOC_CONF", "TORCHINDUCTOR_CACHE_DIR"})
"""Environment variables of pytest, which change with every test, and of Polars and torch, set at their first use."""
TIMER = signal.SIGALRM
"""The signal of pytest-timeout, which sets and resets its handler as it likes."""
LIBRARIES_OWN = ("tqdm_monitor", "fsspecIO")
"""Threads that a library starts once for the whole process."""
MULTIPROCESSING_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Children that multiprocessing starts once for the whole process."""
GRACE_SECONDS = 5.0
"""A thread that is ending at a test's end is waited for so long."""


def dispositions() -> dict[int, Any]:
    """Return what this process does on each signal."""
    return {number: signal.getsignal(number) for number in signal.valid_signals() - {TIMER}}


def children() -> set[int]:
    """Return the processes that this one has started and that are alive or not waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    started = {int(process) for task in tasks for process in read_if_there(task).split()}
    return {process for process in started if not any(own in command(process) for own in MULTIPROCESSING_OWN)}


def command(process: int) -> str:
    """Return the command line of a process, "" when it is gone or a zombie."""
    return read_if_there(Path(f"/proc/{process}/cmdline")).replace("\0", " ").strip()


def read_if_there(path: Path) -> str:
    """Return the text of a file of /proc, which may go at any time."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(frozen=True)
class Surroundings:
    """The state of this process that a test shares with every test after it."""

    signals: dict[int, Any] = field(default_factory=dispositions)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: str = field(default_factory=os.getcwd)
    threads: frozenset[threading.Thread] = field(default_factory=lambda: frozenset(threading.enumerate()))
    children: frozenset[int] = field(default_factory=lambda: frozenset(children()))

    def leaks(self) -> list[str]:
        """Return one line for everything that is no longer as it was when this was made."""
        return [
            *self._signals(),
            *self._environment(),
            *([] if os.getcwd() == self.directory else [f"working directory: {self.directory} → {os.getcwd()}"]),
            *(f"thread {thread.name}" for thread in threading.enumerate() if self._stays(thread)),
            *(f"child process {process}: {command(process)}" for process in sorted(children() - self.children)),
        ]

    def restore(self) -> None:
        """Put back what can be put back, so that one leak does not fail every test after it."""
        for number, handler in self.signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for name in os.environ.keys() - self.environment.keys() - NOT_OURS:
            del os.environ[name]
        os.environ.update(self.environment)
        os.chdir(self.directory)

    def _signals(self) -> list[str]:
        now = dispositions()
        changed = [number for number, handler in self.signals.items() if now[number] is not handler]
        return [f"{signal.Signals(n).name}: {self.signals[n]} → {now[n]}" for n in changed]

    def _environment(self) -> list[str]:
        names = sorted((self.environment.keys() | os.environ.keys()) - NOT_OURS)
        before, now = self.environment, os.environ
        return [f"${name}: {before.get(name)} → {now.get(name)}" for name in names if before.get(name) != now.get(name)]

    def _stays(self, thread: threading.Thread) -> bool:
        """Whether a thread was started since and goes on; one that is ending is waited for."""
        if thread in self.threads or thread.name in LIBRARIES_OWN:
            return False
        thread.join(GRACE_SECONDS)
        return thread.is_alive()


def watched(children_too: bool = True) -> Iterator[None]:
    """Watch over a test, as a fixture does; `children_too` is off where tests start a shared server again.

    Fails the test if it has left anything behind; what can be put back is put back first.
    """
    before = Surroundings()
    yield
    refuse(before if children_too else replace(before, children=frozenset(children())))


def refuse(before: Surroundings) -> None:
    """Fail the test if it has left anything behind; what can be put back is put back first."""
    leaks = before.leaks()
    before.restore()
    if leaks:
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)
