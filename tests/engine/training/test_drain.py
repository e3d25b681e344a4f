"""Real training processes that are asked to end soon, at any step, and gone on with: the end is the same bits."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from engine.launch.drain import DRAIN, DRAINED, RUN_DIR
from tests.engine.training.run_tiny import STEPS
from tests.processes import await_state

SECONDS = 100
CHANCE = random.Random(85)


class Attempt:
    """The tiny run in `ranks` processes, dispatched to the run directory `run_dir`; it rests `pause` seconds a step."""

    def __init__(self, work: Path, ranks: int, run_dir: Path, pause: float = 0.05) -> None:
        run_dir.mkdir(exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["engine.training.loop"])
        environment = {RUN_DIR: str(run_dir), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"WORLD_SIZE": str(ranks), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self.steps = [context.Value("i", 0) for _ in range(ranks)]
        self.ranks = [
            context.Process(target=train, args=(work, environment | {"RANK": str(rank)}, pause, step))
            for rank, step in enumerate(self.steps)
        ]
        for process in self.ranks:
            process.start()

    def await_step(self, rank: int, step: int) -> None:
        """Return while that rank is at that step, or just after it."""
        await_state(lambda: self.steps[rank].value >= step, lambda: self.ranks[rank].exitcode)

    def signal(self, rank: int) -> None:
        """Ask that rank alone."""
        pid = self.ranks[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGUSR1)

    def ended(self) -> list[int | None]:
        """The ranks' exit codes."""
        for process in self.ranks:
            process.join(SECONDS)
        for process in self.ranks:
            process.kill()
        return [process.exitcode for process in self.ranks]


def train(work: Path, environment: dict[str, str], pause: float, at: Any) -> None:
    """One rank of the tiny run, which tells its step in `at`."""
    import torch

    from engine.launch import drain
    from engine.parallel import data
    from tests.engine.training.run_tiny import run

    drain.install()
    os.environ |= environment
    torch.set_num_threads(1)
    if environment["WORLD_SIZE"] != "1":
        data.start()

    def tell(step: int, row: dict[str, Any]) -> None:
        at.value = step
        time.sleep(pause)

    run(work, after_step=tell)
    data.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(work: Path) -> tuple[str, bytes]:
    """Digest of the final state, and the history."""
    return json.loads((work / "training.json").read_text())["state_digest"], (work / "history.jsonl").read_bytes()


def newest(work: Path) -> int:
    """The step of the newest checkpoint, which must be where the history ends."""
    step = max(int(path.name) for path in (work / "checkpoints").glob("0*"))
    assert (work / "history.jsonl").read_bytes().count(b"\n") == step
    return step


@pytest.mark.parametrize("ranks", [1, 2])
def test_asked_by_signal_and_by_file_it_leaves_a_checkpoint_and_ends_in_the_same_bits(
    tmp_path: Path, ranks: int
) -> None:
    """Whichever single rank the signal reaches, all leave after the same step."""
    straight, work, run_dir = tmp_path / "straight", tmp_path / "work", tmp_path / "run"
    assert Attempt(straight, ranks, run_dir, pause=0.0).ended() == [0] * ranks

    first, step, victim = Attempt(work, ranks, run_dir), CHANCE.randrange(2, 9), CHANCE.randrange(ranks)
    first.await_step(victim, step)
    first.signal(victim)
    assert first.ended() == [DRAINED] * ranks
    left = newest(work)
    assert step <= left < STEPS

    second, step = Attempt(work, ranks, run_dir, pause=0.25), left + 1
    second.await_step(0, step)
    (run_dir / DRAIN).touch()
    assert second.ended() == [DRAINED] * ranks
    left = newest(work)
    assert step <= left < STEPS, "the file is looked for once a second"

    (run_dir / DRAIN).unlink()  # as the next attempt's job script does
    assert Attempt(work, ranks, run_dir, pause=0.0).ended() == [0] * ranks
    assert end(work) == end(straight)
    assert json.loads((work / "training.json").read_text())["resumed_at"] == left
