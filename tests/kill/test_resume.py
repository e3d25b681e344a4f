"""SIGKILL at random points of training, of dvc, kedro, torchrun and ranks; each time resumed; the end is the same bits.

30 kills: three stages, each in one process of two threads and in two processes of one, each such run killed six or four
times in a row by the death of another process before it is let finish. What an attempt took up from the one before is
checked, too: one that began again at step 0 would end in the same bits.
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

from engine.optim.schedule import Schedule
from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow

SCHEDULE = Schedule.warmed_up(2e-2, 4, ("constant", 36, None), ("cosine", 16, 1e-3), ("linear", 4, 3.5e-4))
TRAINED = ("pretrain", "sft", "rl")
LONGER: dict[str, dict[str, object]] = {  # long enough to be hit in the middle, a checkpoint every few steps
    "pretrain": {"schedule": SCHEDULE.model_dump(exclude_none=True, mode="json"), "checkpoint_every": 4},
    "sft": {"steps": 48, "checkpoint_every": 4},  # until some sums come out right, so that rl has something to learn
    "rl": {"iterations": 16, "checkpoint_every": 1},
}
STEPS = {"pretrain": 60, "sft": 48, "rl": 32}
TRAINING = ("*", "*/training")  # where a stage trains; no deeper: checkpoints come and go while it is looked through
KILLED_WITHIN = 0.7  # of the steps: the rest leaves the last victim something to do on a fast machine, too
LONGEST_DELAY = 0.2  # seconds of training from a step that was awaited to the kill: anywhere in the steps after it
SLICE = 0.02  # seconds that ranks train between two looks at them


@dataclass(frozen=True)
class Setting:
    """The settings of a stage's training, and the process that dies in each of its kills."""

    threads: int
    processes: int
    victims: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.threads}-threads-{self.processes}-processes"


SETTINGS = (
    Setting(2, 1, ("rank", "kedro", "dvc", "kedro", "dvc", "rank")),
    Setting(1, 2, ("rank", "torchrun", "kedro", "dvc")),
)


def test_these_are_30_kills() -> None:
    assert len(TRAINED) * sum(len(setting.victims) for setting in SETTINGS) == 30


@pytest.fixture(scope="module")
def project(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of its own for the training stages, which read what is made there."""
    return made.copied(tmp_path_factory.mktemp("resume") / "project")


@dataclass(frozen=True)
class Undisturbed:
    """A setting that the project is configured for, and what each stage ends in under it."""

    setting: Setting
    ends: dict[str, "End"]


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def undisturbed(project: Project, request: pytest.FixtureRequest) -> Undisturbed:
    """The training stages run once in ranks as on a laptop, a checkpoint every few steps, and nothing killed."""
    setting: Setting = request.param
    use(project, setting)
    extend = () if project.data("extend").exists() else ("extend",)
    project.run(*kedro("pretrain", *extend, "sft", "rl"))
    learned = project.records("rl")[-1]["metrics"]
    assert learned["steps_skipped"] < STEPS["rl"], "no group had any variance of reward, so rl changed nothing"
    return Undisturbed(setting, {stage: end(project, stage, setting) for stage in TRAINED})


def kedro(*stages: str) -> tuple[str, ...]:
    """The command that runs stages, stale or not."""
    return ("kedro", "run", "--env", PROFILE, "--pipelines", ",".join(stages))


def use(project: Project, setting: Setting) -> None:
    """Configure the training stages."""
    compute = {"train": {"launcher": "local", "processes": setting.processes}}
    (project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump(compute))
    for stage, changes in LONGER.items():
        path = project.path / f"conf/{PROFILE}/parameters/{stage}.yml"
        content = yaml.safe_load(path.read_text())
        content[stage] |= changes | {"threads": setting.threads}
        path.write_text(yaml.safe_dump(content))
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)


@dataclass(frozen=True)
class End:
    """The end of a run: its outputs (weights and history among them) by digest, and all of its final state."""

    outputs: dict[str, str]
    state: str


def end(project: Project, stage: str, setting: Setting) -> End:
    """The end of a stage's last run, which must be a success under `setting`."""
    record = project.records(stage)[-1]
    assert record["outcome"] == "success"
    assert record["world_size"] == record["training"]["world_size"] == setting.processes
    assert record["training"]["worlds"] == [[0, setting.processes, ""]]
    assert record["training"]["numerics"]["threads"] == setting.threads
    return End(project.digests(stage), record["training"]["state_digest"])


@pytest.mark.parametrize("stage", TRAINED)
def test_killed_again_and_again_and_resumed(project: Project, undisturbed: Undisturbed, stage: str) -> None:
    setting = undisturbed.setting
    chance = random.Random(f"{setting} {stage}")
    part = KILLED_WITHIN * STEPS[stage] / len(setting.victims)
    kept = 0
    for turn, victim in enumerate(setting.victims):
        # DVC takes seconds to start, so it is there only to be killed.
        command = ("dvc", "repro", "-f", "-s", f"{LEDGER}:{stage}") if victim == "dvc" else kedro(stage)
        top = project.start(*command)
        kept = kill(project, stage, top, setting, victim, int(part * (turn + chance.random())), kept, chance)
    project.run(*kedro(stage))
    assert end(project, stage, setting) == undisturbed.ends[stage]
    record = project.records(stage)[-1]
    assert record["attempt"] == len(setting.victims) + 1
    assert record["training"]["resumed_at"] == kept > 0, "the last attempt went on from the newest checkpoint"


def kill(
    project: Project,
    stage: str,
    top: "subprocess.Popen[str]",
    setting: Setting,
    victim: str,
    step: int,
    checkpoint: int,
    chance: random.Random,
) -> int:
    """Kill `victim` below `top` a moment after step `step`; the step of the newest checkpoint it leaves.

    The attempt must have gone on from the one that its predecessor left, `kept`.
    """
    processes, first = wait_for_progress(project, stage, top, setting, step)
    assert first > checkpoint, (
        f"this attempt made step {first} anew, with a checkpoint after step {checkpoint} on the disc"
    )
    resume(processes)
    time.sleep(chance.uniform(0, LONGEST_DELAY))
    chance.choice([process for name, process in processes if name == victim]).send_signal(signal.SIGKILL)
    top.wait(timeout=90)
    _, alive = psutil.wait_procs([process for _, process in processes], timeout=20)
    assert not alive, f"after {victim} was killed these lived on: {alive}"
    workspaces = [path for path in project.data(".work", stage).glob("*/") if path.is_dir()]
    assert len(workspaces) == 1, "the unfinished work is kept under its key"
    newest = max(
        (int(path.name) for path in beside_training(workspaces[0].parent, "checkpoints/*") if path.name.isdigit()),
        default=0,
    )
    assert newest >= checkpoint
    return newest


Family = list[tuple[str, psutil.Process]]
MARKS = (
    ("torchrun", "engine.launch.torchrun"),
    ("rank", "pipelines.rank"),
    ("kedro", "kedro run"),
    ("dvc", "dvc repro"),
)


def family(top: "subprocess.Popen[str]") -> Family:
    """Dvc and the kedro, torchrun and ranks below it, by what they are; from `top` on."""
    root = psutil.Process(top.pid)
    processes = []
    for process in (root, *root.children(recursive=True)):
        words = " ".join(process.cmdline())
        processes += [(name, process) for name, mark in MARKS if mark in words][:1]
    return processes


def beside_training(workspace: Path, name: str) -> list[Path]:
    """The files of that name where a stage below `workspace` trains."""
    return [path for place in TRAINING for path in workspace.glob(f"{place}/{name}")]


def steps_done(workspace: Path) -> int:
    """The furthest step that any history below the workspace has reached."""
    return max((last_step(path.read_text()) for path in beside_training(workspace, "history.jsonl")), default=0)


def last_step(history: str) -> int:
    """The step of a history's last whole row that has one; 0 if none has."""
    rows = (json.loads(line) for line in reversed(history.splitlines()) if line.endswith("}"))
    return next((int(row["step"]) for row in rows if "step" in row), 0)


def wait_for_progress(
    project: Project, stage: str, top: "subprocess.Popen[str]", setting: Setting, step: int
) -> tuple[Family, int]:
    """Wait until the ranks below `top` have done `step` steps, suspend them; the processes, and the ranks' first step.

    The heartbeat tells whose work it is: before a rank's first step, history and heartbeat are the last attempt's. From
    then on the ranks train a slice at a time and stand still while their steps are counted, so that none gets away,
    however fast the machine is and however busy.
    """
    expected = sorted(["kedro", *["torchrun"] * (setting.processes > 1), *["rank"] * setting.processes])
    workspace = project.data(".work", stage)
    deadline = time.monotonic() + 240
    first = 0
    while time.monotonic() < deadline:
        assert top.poll() is None, (project.path / "started.log").read_text()[-4000:]
        time.sleep(SLICE)
        first = first or heard(workspace, top)
        if not first:
            continue
        try:
            processes = family(top)
        except psutil.NoSuchProcess:  # one ended as it was looked at
            continue
        if sorted(name for name, _ in processes if name != "dvc") != expected:
            continue
        suspend(processes)
        if steps_done(workspace) >= step:
            return processes, first
        resume(processes)
    raise AssertionError(f"{stage} did not reach step {step}:\n{(project.path / 'started.log').read_text()[-4000:]}")


def suspend(processes: Family, names: tuple[str, ...] = ("rank",)) -> None:
    """Stop the processes of these names where they are."""
    for name, process in processes:
        if name in names:
            process.suspend()


def resume(processes: Family) -> None:
    """Let all processes go on."""
    for _, process in processes:
        process.resume()


def heard(workspace: Path, top: "subprocess.Popen[str]") -> int:
    """The step that a heartbeat from below `top` tells of; 0 where there is none yet."""
    for path in beside_training(workspace, "heartbeat.json"):
        beat = json.loads(path.read_bytes())
        try:
            if any(parent.pid == top.pid for parent in psutil.Process(beat["pid"]).parents()):
                return int(beat["step"])
        except psutil.NoSuchProcess:
            pass
    return 0


def test_no_second_trainer_beside_the_first(project: Project) -> None:
    use(project, SETTINGS[0])
    first = project.start(*kedro("pretrain"))
    processes, _ = wait_for_progress(project, "pretrain", first, SETTINGS[0], 1)
    suspend(processes, ("kedro", "rank"))  # long enough for the second one to lose its patience
    second = project.run(*kedro("pretrain"), check=False)
    resume(processes)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert first.wait(timeout=300) == 0
