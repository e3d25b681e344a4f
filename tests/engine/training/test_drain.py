"""Real training processes that are asked to end soon, at any step, and gone on with: the end is the same bits."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.launch.drain import DRAIN, DRAINED, RUN_DIR
from tests.engine.training.run_tiny import STEPS

ROOT = Path(__file__).parents[3]
SECONDS = 100
CHANCE = random.Random(85)


class Attempt:
    """The tiny run in `ranks` processes, dispatched to the run directory `run_dir`; it rests `pause` seconds a step."""

    def __init__(self, work: Path, ranks: int, run_dir: Path, pause: float = 0.05) -> None:
        run_dir.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", RUN_DIR: str(run_dir)}
        if ranks > 1:
            environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.command = [sys.executable, "-m", "tests.engine.training.run_tiny", str(work), str(pause)]
        self.ranks = [self._start(environment | ({"RANK": str(n)} if ranks > 1 else {})) for n in range(ranks)]

    def _start(self, environment: dict[str, str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)

    def await_step(self, rank: int, step: int) -> None:
        """Return while that rank is at that step, its row not yet written."""
        out = self.ranks[rank].stdout
        assert out is not None
        assert any(int(line) == step for line in out), f"rank {rank} never came to step {step}"

    def ended(self) -> set[int]:
        """The ranks' exit codes."""
        try:
            return {process.wait(SECONDS) for process in self.ranks}
        finally:
            for process in self.ranks:
                process.kill()
                process.communicate()


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


@pytest.fixture(scope="module", params=[1, 2], ids=["1-rank", "2-ranks"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """So many ranks, and where they trained without being asked anything."""
    work = tmp_path_factory.mktemp("undisturbed")
    assert Attempt(work / "work", request.param, work / "run").ended() == {0}
    return request.param, work / "work"


def test_asked_by_signal_and_by_file_it_leaves_a_checkpoint_and_ends_in_the_same_bits(
    undisturbed: tuple[int, Path], tmp_path: Path
) -> None:
    """Whichever single rank the signal reaches, all leave after the same step."""
    ranks, straight = undisturbed
    work, run_dir = tmp_path / "work", tmp_path / "run"

    first, step, victim = Attempt(work, ranks, run_dir), CHANCE.randrange(2, 9), CHANCE.randrange(ranks)
    first.await_step(victim, step)
    first.ranks[victim].send_signal(signal.SIGUSR1)
    assert first.ended() == {DRAINED}
    left = newest(work)
    assert step <= left <= step + 2

    second, step = Attempt(work, ranks, run_dir, pause=0.25), left + CHANCE.randrange(1, 4)
    second.await_step(0, step)
    (run_dir / DRAIN).touch()
    assert second.ended() == {DRAINED}, "the file is looked for once a second"
    assert step <= (left := newest(work)) < STEPS

    (run_dir / DRAIN).unlink()  # as the next attempt's job script does
    assert Attempt(work, ranks, run_dir).ended() == {0}
    assert end(work) == end(straight)
    assert json.loads((work / "training.json").read_text())["resumed_at"] == left
