"""SIGKILL at random points of training, of dvc, kedro, torchrun and ranks; each time resumed; the end is the same bits.

30 kills: three stages, each under three settings of threads and processes, each such run killed three or four times in
a row by the death of another process before it is let finish.
"""

import json
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow
TRAINED = ("pretrain", "sft", "rl")
LONGER: dict[str, dict[str, object]] = {  # long enough to be hit in the middle, a checkpoint every few steps
    "pretrain": {"checkpoint_every": 4},
    "sft": {"steps": 80, "checkpoint_every": 8},  # until some sums come out right, so that rl has something to learn
    "rl": {"iterations": 16, "checkpoint_every": 1},
}
STEPS = {"pretrain": 40, "sft": 80, "rl": 32}
LONGEST_DELAY = 0.4  # seconds from a step that was awaited to the kill: anywhere in the steps after it


@dataclass(frozen=True)
class Setting:
    """How a stage trains, and the process that dies in each of its kills."""

    threads: int
    processes: int
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.threads}-threads-{self.processes}-processes"


SETTINGS = (
    Setting(1, 1, ("rank", "kedro", "dvc")),  # the first is what the project is made under
    Setting(2, 1, ("dvc", "rank", "kedro")),
    Setting(1, 2, ("rank", "torchrun", "kedro", "dvc")),
)
CASES = [(setting, stage) for setting in SETTINGS for stage in TRAINED]


def test_these_are_30_kills() -> None:
    assert sum(len(setting.victims) for setting, _ in CASES) == 30


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke graph run once undisturbed, its training in ranks as on a laptop, a checkpoint every few steps."""
    made = Project(tmp_path_factory.mktemp("project"))
    use(made, SETTINGS[0])
    made.repro(f"{LEDGER}:rl")
    learned = made.records("rl")[0]["metrics"]
    assert learned["steps_skipped"] < STEPS["rl"], "no group had any variance of reward, so rl changed nothing"
    return made


def use(project: Project, setting: Setting) -> None:
    """Configure the training stages."""
    compute = {"train": {"launcher": "local", "processes": setting.processes}}
    (project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump(compute))
    for stage, changes in LONGER.items():
        path = project.path / f"conf/{PROFILE}/parameters/{stage}.yml"
        content = yaml.safe_load(path.read_text())
        content[stage] |= changes | {"threads": setting.threads}
        path.write_text(yaml.safe_dump(content))
    project.run("python", "-m", "pipelines.code", "--env", PROFILE)


def outcome(project: Project, stage: str, setting: Setting) -> tuple[dict[str, str], str]:
    """What a stage's last run ended in: its outputs (weights and history among them), all of its final state."""
    record = project.records(stage)[-1]
    assert record["outcome"] == "success"
    assert record["world_size"] == record["training"]["world_size"] == setting.processes
    assert record["training"]["numerics"]["threads"] == setting.threads
    return project.digests(stage), record["training"]["state_digest"]


@pytest.mark.parametrize(("setting", "stage"), CASES, ids=str)
def test_killed_again_and_again_and_resumed(project: Project, setting: Setting, stage: str) -> None:
    use(project, setting)
    command = ("dvc", "repro", "-f", "-s", f"{LEDGER}:{stage}")
    if setting != SETTINGS[0]:
        project.run(*command)
    want = outcome(project, stage, setting)
    chance = random.Random(f"{setting} {stage}")
    part = 0.8 * STEPS[stage] / len(setting.victims)
    for turn, victim in enumerate(setting.victims):
        dvc = project.start(*command)
        processes = wait_for_progress(project, stage, dvc, setting, int(part * (turn + chance.random())))
        time.sleep(chance.uniform(0, LONGEST_DELAY))
        chance.choice([process for name, process in processes if name == victim]).send_signal(signal.SIGKILL)
        dvc.wait(timeout=90)
        _, alive = psutil.wait_procs([process for _, process in processes], timeout=20)
        assert not alive, f"after {victim} was killed these lived on: {alive}"
        left = [path for path in project.data(".work", stage).glob("*/") if path.is_dir()]
        assert len(left) == 1, "the unfinished work is kept under its key"
    project.run(*command)
    assert outcome(project, stage, setting) == want
    assert project.records(stage)[-1]["attempt"] == len(setting.victims) + 1


Family = list[tuple[str, psutil.Process]]


def family(dvc: "subprocess.Popen[str]") -> Family:
    """dvc and the kedro, torchrun and ranks below it, by what they are."""
    found = [("dvc", psutil.Process(dvc.pid))]
    for child in found[0][1].children(recursive=True):
        words = " ".join(child.cmdline())
        for name, mark in (("torchrun", "engine.launch.torchrun"), ("rank", "pipelines.rank"), ("kedro", "kedro run")):
            if mark in words:
                found.append((name, child))
                break
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


def wait_for_progress(
    project: Project, stage: str, dvc: "subprocess.Popen[str]", setting: Setting, step: int
) -> Family:
    """Wait until the ranks have trained `step` steps; return the processes."""
    wanted = sorted([*(name for name in setting.victims if name != "rank"), *["rank"] * setting.processes])
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert dvc.poll() is None, (project.path / "started.log").read_text()[-4000:]
        if steps_done(project.data(".work", stage)) >= step:
            try:
                processes = family(dvc)
            except psutil.NoSuchProcess:  # one ended as it was looked at
                continue
            if sorted(name for name, _ in processes) == wanted:
                return processes
        time.sleep(0.02)
    raise AssertionError(f"{stage} did not reach step {step}:\n{(project.path / 'started.log').read_text()[-4000:]}")


def test_no_second_trainer_beside_the_first(project: Project) -> None:
    use(project, SETTINGS[0])
    dvc = project.start("dvc", "repro", "-f", "-s", f"{LEDGER}:pretrain")
    processes = wait_for_progress(project, "pretrain", dvc, SETTINGS[0], 1)
    held = [process for name, process in processes if name != "dvc"]
    for process in held:
        process.suspend()  # long enough for the second one to lose its patience
    second = project.run("kedro", "run", "--env", PROFILE, "--pipelines", "pretrain", check=False)
    for process in held:
        process.resume()
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert dvc.wait(timeout=300) == 0
