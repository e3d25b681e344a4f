"""SIGKILL in the middle of training, of dvc, of kedro, of the rank; run again; the end is the same to the bit."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
TRAINED = ("pretrain", "sft", "rl")
VICTIMS = ("dvc", "kedro", "rank")
LONGER: dict[str, dict[str, object]] = {  # long enough to be hit in the middle, a checkpoint every few steps
    "pretrain": {"checkpoint_every": 4},
    "sft": {"steps": 80, "checkpoint_every": 8},  # until some sums come out right, so that rl has something to learn
    "rl": {"iterations": 16, "checkpoint_every": 1},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke graph run once undisturbed, its training in ranks as on a laptop, a checkpoint every few steps."""
    made = Project(tmp_path_factory.mktemp("project"))
    (made.path / f"conf/{PROFILE}/compute.yml").write_text("train: { launcher: local }\n")
    for stage, changes in LONGER.items():
        path = made.path / f"conf/{PROFILE}/parameters/{stage}.yml"
        content = yaml.safe_load(path.read_text())
        content[stage] |= changes
        path.write_text(yaml.safe_dump(content))
    made.repro()
    learned = made.records("rl")[0]["metrics"]
    assert learned["steps_skipped"] < 32, "no group had any variance of reward, so rl changed nothing"
    return made


def family(dvc: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """dvc, the kedro it started and the rank that started."""
    found = {"dvc": psutil.Process(dvc.pid)}
    for child in found["dvc"].children(recursive=True):
        words = " ".join(child.cmdline())
        if "pipelines.rank" in words:
            found["rank"] = child
        elif "kedro run" in words:
            found["kedro"] = child
    return found


def steps_done(workspace: Path) -> int:
    """The furthest step that any history below the workspace has reached."""
    rows = [
        line
        for path in workspace.rglob("history.jsonl")
        for line in path.read_text().splitlines()
        if line.endswith("}")
    ]
    return max((json.loads(row).get("step", 0) for row in rows), default=0)


@pytest.mark.parametrize("stage", TRAINED)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_and_resumed(project: Project, stage: str, victim: str) -> None:
    want = project.digests(stage)
    runs = len(project.records(stage))
    dvc = project.start("dvc", "repro", "-f", "-s", f"{LEDGER}:{stage}")
    at = random.Random(f"{stage} {victim}").randint(3, 8)
    processes = wait_for_progress(project, stage, dvc, at)
    os.kill(processes[victim].pid, signal.SIGKILL)
    dvc.wait(timeout=60)
    _, alive = psutil.wait_procs(list(processes.values()), timeout=20)
    assert not alive, f"after {victim} was killed these lived on: {alive}"
    left = [path for path in project.data(".work", stage).glob("*/") if path.is_dir()]
    assert len(left) == 1, "the unfinished work is kept under its key"
    project.repro("-f", "-s", f"{LEDGER}:{stage}")
    assert project.digests(stage) == want
    last = project.records(stage)[-1]
    assert (last["outcome"], last["attempt"]) == ("success", 2)
    assert len(project.records(stage)) >= runs + 1


def wait_for_progress(
    project: Project, stage: str, dvc: "subprocess.Popen[str]", step: int
) -> dict[str, psutil.Process]:
    """Wait until the rank has trained `step` steps; return the processes."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert dvc.poll() is None, (project.path / "started.log").read_text()[-4000:]
        if steps_done(project.data(".work", stage)) >= step:
            processes = family(dvc)
            if set(processes) == set(VICTIMS):
                return processes
        time.sleep(0.02)
    raise AssertionError(f"{stage} did not reach step {step}:\n{(project.path / 'started.log').read_text()[-4000:]}")


def test_no_second_trainer_beside_the_first(project: Project) -> None:
    dvc = project.start("dvc", "repro", "-f", "-s", f"{LEDGER}:pretrain")
    processes = wait_for_progress(project, "pretrain", dvc, 1)
    for name in ("kedro", "rank"):
        processes[name].suspend()  # long enough for the second one to lose its patience
    second = project.run("kedro", "run", "--env", PROFILE, "--pipelines", "pretrain", check=False)
    for name in ("kedro", "rank"):
        processes[name].resume()
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert dvc.wait(timeout=300) == 0
