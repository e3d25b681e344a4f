"""A rank of a tiny training that can be made to stand still at a collective: python -m tests.kill.standing WORK LAYOUT.

Standing still, it is killed while the other ranks wait for it in that collective.
"""

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter

from engine.launch.torchrun import LOST
from engine.parallel import data
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out
from tests.engine.training.run_tiny import run
from tests.processes import await_state

STEPS, KEPT = 8, 5
"""The steps of the training, and the one after which it leaves its checkpoint."""
AFTER = 6
"""The steps that are done when a rank stands still: one of them is made anew."""


def train(rank: int, work: Path, layout: Layout, after_step: Callable[[int, Any], None] | None = None) -> None:
    """Train as one of several ranks, of two micro-batches each at least."""
    with laid_out(layout):
        run(work, after_step, steps=STEPS, micro_batches=4)


def stand_at(name: str, call: int, victim: int, work: Path) -> Callable[[int, Any], None]:
    """Return what the training does after each step: after some, it watches the collective `name`.

    Its last checkpoint is whole by then. Every rank writes its process's number to a file before its call number `call`
    (from 0), and the victim stops there.
    """
    calls = 0
    collective = getattr(dist, name)

    def watched(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            marker(work, data.ranks().rank).write_text(str(os.getpid()))
            if data.ranks().rank == victim:
                os.kill(os.getpid(), signal.SIGSTOP)
        return collective(*args, **more)

    def after_step(step: int, row: Any) -> None:
        if step == AFTER:
            await_state((work / "checkpoints" / f"{KEPT:08d}").exists)
            setattr(dist, name, watched)

    return after_step


def marker(work: Path, rank: int) -> Path:
    """The file in which a rank says that it is at the collective."""
    return work / f"at.{rank}"


def main() -> None:
    """Train as torchrun's environment says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("layout", type=TypeAdapter(Layout).validate_json)
    parser.add_argument("--collective")
    parser.add_argument("--call", type=int)
    parser.add_argument("--victim", type=int)
    parser.add_argument("--parent")
    of = parser.parse_args()
    data.start()
    try:
        train(data.ranks().rank, of.work, of.layout, stand_at(of.collective, of.call, of.victim, of.work))
    except data.RankLost as error:
        print(error, flush=True)
        os._exit(LOST)
    data.stop()


if __name__ == "__main__":
    main()
