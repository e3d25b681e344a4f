"""A training that SIGKILL ends at a chosen call of the operating system while its last checkpoint is written."""

import json
import os
import signal
import threading
from pathlib import Path

from engine.launch.torchrun import LOST
from engine.parallel import data
from tests.engine.training.run_tiny import run

STEPS = 15
CALLS = ("mkdir", "write", "fsync", "rename", "replace", "unlink", "rmdir")
"""The functions of `os` that change what is on disk or make it durable."""


def train(work: Path, die_at: int, events: Path | None = None) -> None:
    """Train with checkpoints after steps 5, 10 and 15; die at the call `die_at` of the last one's thread.

    A write is cut in half; any other call is not made. If `events` is given, list the calls there and do not die.
    """
    names = watch(None if events else die_at)
    run(work, steps=STEPS)
    if events:
        events.write_text(json.dumps(names))


def train_in_ranks(rank: int, size: int, port: int, work: Path, victim: int, die_at: int, events: Path | None) -> None:
    """Train as one of `size` ranks, of which the `victim` dies as in `train`, and the others exit with LOST.

    If the folder `events` is given, every rank lists its calls there, and none dies.
    """
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    data.start()
    names = watch(die_at if rank == victim and not events else None)
    try:
        run(work, steps=STEPS)
    except data.RankLost:
        os._exit(LOST)
    if events:
        (events / f"{rank}.json").write_text(json.dumps(names))
    data.stop()


def watch(die_at: int | None) -> list[str]:
    """Watch the calls of the thread that writes the last checkpoint; return a list to which their names are added."""
    names: list[str] = []
    begun: list[bool] = []
    for name in ("open", *CALLS):
        setattr(os, name, _watched(name, names, begun, die_at))
    return names


def _watched(name, names, begun, die_at):
    call = getattr(os, name)

    def watched(*args, **more):
        if threading.current_thread().name == "checkpoint" and (begun or f"{STEPS:08d}" in str(args[0])):
            begun.append(True)
            if name != "open":
                if len(names) == die_at:
                    if name == "write":
                        call(args[0], args[1][: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                names.append(name)
        return call(*args, **more)

    return watched
