"""A training that SIGKILL ends at a chosen call of the operating system while its last checkpoint is written."""

import json
import os
import signal
import threading
from pathlib import Path

from tests.engine.training.run_tiny import run

STEPS = 15
CALLS = ("mkdir", "write", "fsync", "rename", "replace", "unlink", "rmdir")
"""The functions of `os` that change what is on disk or make it durable."""


def train(work: Path, die_at: int, events: Path | None = None) -> None:
    """Train with checkpoints after steps 5, 10 and 15; die at the call `die_at` of the last one's thread.

    A write is cut in half; any other call is not made. If `events` is given, list the calls there and do not die.
    """
    names: list[str] = []
    for name in CALLS:
        setattr(os, name, _watched(name, names, None if events else die_at))
    run(work, steps=STEPS)
    if events:
        events.write_text(json.dumps(names))


def _watched(name, names, die_at):
    call = getattr(os, name)

    def watched(*args, **more):
        if threading.current_thread().name == "checkpoint" and (names or f"{STEPS:08d}" in str(args[0])):
            if len(names) == die_at:
                if name == "write":
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            names.append(name)
        return call(*args, **more)

    return watched
