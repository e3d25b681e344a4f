"""SIGUSR1 at random points of the graph's own pretrain, in a rank alone and in two below torchrun; resumed bit for bit.

As a Slurm job starts them: `python -m pipelines.rank`, or torchrun that hands the signal on, with a run directory.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.launch.drain import DONE, DRAINED, RUN_DIR
from engine.launch.heartbeat import WATCHED
from tests.kill.pretraining import KEDRO, STAGE, STEPS, Pretraining, newest
from tests.processes import await_state
from tests.project import Project

pytestmark = pytest.mark.slow

NODE, DRAINS = "train_pretrain", 2
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node=2", "--max-restarts=0", "--shutdown-timeout=60")
SIGNALS = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
SECONDS = 240


@pytest.mark.parametrize("ranks", [1, 2])
def test_drained_again_and_again_and_resumed(pretraining: Pretraining, ranks: int, tmp_path: Path) -> None:
    undisturbed, expected = pretraining.undisturbed(ranks)
    project = pretraining.project
    workspace = killed_driver(project, undisturbed["key"])

    chance, steps = random.Random(f"drain {ranks}"), [0]
    for _ in range(DRAINS):
        process = start(project, workspace, ranks, tmp_path)
        await_state((tmp_path / WATCHED).exists, process.poll)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGUSR1)
        assert process.wait(SECONDS) == (DRAINED if ranks == 1 else 1), "torchrun has an exit code of its own"
        assert not (tmp_path / DONE).exists()
        steps.append(newest(workspace))
    assert steps == sorted(set(steps)), "every attempt came further than the one before"
    assert steps[-1] < STEPS

    assert start(project, workspace, ranks, tmp_path).wait(SECONDS) == 0
    assert (tmp_path / DONE).exists()
    assert json.loads((tmp_path / WATCHED).read_bytes())["step"] == STEPS
    summary = json.loads((workspace / "training.json").read_bytes())
    assert (summary["resumed_at"], summary["state_digest"]) == (steps[-1], undisturbed["training"]["state_digest"])
    project.run(*KEDRO)  # the driver publishes
    assert project.digests(STAGE) == expected


def killed_driver(project: Project, key: str) -> Path:
    """The workspace as a driver left it that was killed when it had written the node's parameters."""
    workspace = project.data(".work", STAGE, key)
    top = project.start(*KEDRO)
    await_state((workspace / ".exchange" / f"{NODE}.parameters.json").exists, top.poll)
    top.kill()
    top.wait()
    return workspace


def start(project: Project, workspace: Path, ranks: int, run_dir: Path) -> "subprocess.Popen[bytes]":
    """One attempt, as its job script starts it."""
    (run_dir / WATCHED).unlink(missing_ok=True)
    rank, environment = project.rank(STAGE, NODE, workspace.name)
    command = [sys.executable, *rank] if ranks == 1 else [*TORCHRUN, SIGNALS, "-m", "--", *rank[1:], "--world"]
    environment |= {RUN_DIR: str(run_dir), "GLOO_SOCKET_IFNAME": "lo"}
    with (run_dir / "log").open("a") as log:
        return subprocess.Popen(command, cwd=project.path, env=environment, stdout=log, stderr=log)
