"""Ensure that no process outlives the one that started it, and that no two work on one stage.

A stage's driver and the process it starts, a rank or torchrun, both hold the stage's lock (the child inherits the open
file), so the lock is free only when both are gone. Ranks under torchrun do not inherit it: each holds its own lock
until it is gone (pipelines/rank.py). And each process asks the kernel to be killed when its parent dies.
"""

import ctypes
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import IO

from engine.errors import UserError

_PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 15.0


def die_with_parent(parent: int) -> None:
    """Make the kernel send SIGKILL to this process when its parent dies (Linux); exit now if it already has.

    Args:
        parent: the parent's process id as the parent itself saw it.

    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(f"the process {parent} that started this one is gone")


def lock(path: Path, name: str, patience: float = PATIENCE_SECONDS) -> IO[str]:
    """Take the exclusive lock `path`, waiting up to `patience` seconds for a process that is just ending.

    Args:
        path: the lock file; created if missing, never removed.
        name: the name in the error, e.g. "stage pretrain of profile laptop".
        patience: seconds to wait.

    Raises:
        UserError: another process still holds it.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise UserError(
                    f"{name} is already running ({path} is held by {holders(path)}): wait for it or stop it."
                ) from None
            time.sleep(0.1)
    return file


def holders(path: Path) -> str:
    """Return the processes of this machine that hold a lock on `path`, in words, according to the kernel.

    A process id written into the file would name a dead process, and not the child that has inherited the lock.
    """
    file, processes = path.stat(), set()
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samestat(handle.stat(), file):
                process = handle.parents[1]
                if "lock:" in (process / "fdinfo" / handle.name).read_text():
                    processes.add(int(process.name))
        except OSError:  # the process has ended, or is another user's
            continue
    if not processes:
        return "a process of another user or machine"
    return f"process{'es' * (len(processes) > 1)} {', '.join(map(str, sorted(processes)))}"


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock `path`."""
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
