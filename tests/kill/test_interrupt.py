"""Ctrl-C as a terminal sends it, SIGINT to the whole process group: a pause that loses no step, and the same bits."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.kill.pretraining import KEDRO, STAGE, STEPS, Pretraining, newest
from tests.processes import await_state
from tests.project import ENVIRONMENT, PROFILE, Project

pytestmark = pytest.mark.slow

REPRO = ("python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--stage", STAGE, "--force")
SECONDS = 120


@pytest.fixture
def terminal(pretraining: Pretraining) -> Iterator["Terminal"]:
    """A terminal whose last command is gone when the test is."""
    opened = Terminal(pretraining.project)
    yield opened
    opened.close()


class Terminal:
    """Runs one command at a time in a process group of its own, and presses Ctrl-C."""

    def __init__(self, project: Project) -> None:
        self.project, self.log = project, project.path / f"terminal-{time.monotonic_ns()}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.family: list[psutil.Process] = []

    def type(self, *words: str) -> None:
        """Start a command."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=self.project.path, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )

    def lines(self) -> list[str]:
        """Return the lines that the last command has printed."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]

    def wait_for(self, step: int) -> None:
        """Wait until the training has written the row of a step."""
        assert self.process is not None
        await_state(lambda: self.rows() >= step, self.process.poll, self.log.read_text)

    def rows(self) -> int:
        """Return the number of steps in the history."""
        files = self.project.data(".work", STAGE).glob("*/history.jsonl")
        return max((path.read_text().count("\n") for path in files), default=0)

    def press(self, group: bool = True) -> None:
        """Send Ctrl-C to the whole group, or to the command's first process alone."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        self.family = [top, *top.children(recursive=True)]
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Return the command's exit code; none of its children outlives it."""
        assert self.process is not None
        status = self.process.wait(SECONDS)
        _, alive = psutil.wait_procs(self.family, timeout=20)
        assert not alive, alive
        return status

    def close(self) -> None:
        """Kill the processes that are left."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def test_paused_by_repro_and_by_the_driver_and_gone_on(pretraining: Pretraining, terminal: Terminal) -> None:
    """Two ranks: Ctrl-C through repro, DVC, kedro and torchrun, then to the driver alone; at last the same bits."""
    undisturbed, expected = pretraining.undisturbed(2)
    project, reached = pretraining.project, 0
    for words, group in ((REPRO, True), (KEDRO, False)):
        terminal.type(*words)
        terminal.wait_for(reached + 5)
        terminal.press(group)
        assert terminal.ended() == 130, terminal.log.read_text()
        before, reached = reached, newest(project.data(".work", STAGE))
        assert before + 5 <= reached < STEPS, "the step it was in is kept"
        check_pause(project, terminal, undisturbed["key"], f"stage {STAGE} stopped at {reached} of {STEPS}; ")
        assert not before or any(line.endswith(f"resumed from {before} of {STEPS}") for line in terminal.lines())
    project.run(*KEDRO)
    record = project.records(STAGE)[-1]
    assert record["training"]["resumed_at"] == reached
    assert record["training"]["state_digest"] == undisturbed["training"]["state_digest"]
    assert project.digests(STAGE) == expected


def test_paused_in_the_driver_itself(pretraining: Pretraining, terminal: Terminal) -> None:
    pretraining.use(0)
    shutil.rmtree(pretraining.project.data(".work", STAGE), ignore_errors=True)
    terminal.type(*KEDRO)
    terminal.wait_for(5)
    terminal.press()
    assert terminal.ended() == 130, terminal.log.read_text()
    reached = newest(pretraining.project.data(".work", STAGE))
    assert 5 <= reached < STEPS
    check_pause(pretraining.project, terminal, None, f"stage {STAGE} stopped at {reached} of {STEPS}; ")


def test_a_rate_changed_half_way_by_adopting_the_work(pretraining: Pretraining, terminal: Terminal) -> None:
    """The edit deletes nothing; what comes of the adopted work says so, and the work of the first key goes on."""
    project = pretraining.project
    pretraining.use(0)
    before = newest(project.data(".work", STAGE))
    if not before:
        terminal.type(*KEDRO)
        terminal.wait_for(5)
        terminal.press()
        assert terminal.ended() == 130
        before = newest(project.data(".work", STAGE))
    (first,) = (path.parent.name for path in project.data(".work", STAGE).glob("*/begun.json"))
    parameters = f"conf/{PROFILE}/parameters/pretrain.yml"
    project.edit(parameters, "length: 4", "length: 3")  # the warm-up's
    try:
        project.run("python", "-m", "pipelines.commands.adopt_work", "--env", PROFILE, "--stage", STAGE, "--key", first)
        project.run(*KEDRO)
        record = project.records(STAGE)[-1]
        assert (record["outcome"], record["training"]["resumed_at"]) == ("success", before)
        assert record["warning"] == f"adopted work of key {first} at step {before}"
        (difference,) = record["origin"].pop("differs")
        assert difference.startswith("parameter pretrain.schedule.phases: [{")
        assert record["origin"] == {"work": first, "step": before}
    finally:
        project.edit(parameters, "length: 3", "length: 4")
        project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    assert newest(project.data(".work", STAGE, first)) == before


def check_pause(project: Project, terminal: Terminal, key: str | None, begin: str) -> None:
    """The command's last word and the run record say where it stopped, and nothing looks like a failure of ours."""
    lines = terminal.lines()
    assert lines[-1] == f"{begin}the same command goes on."
    assert any("Ctrl-C again stops at once" in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    record = project.records(STAGE)[-1]
    assert (record["outcome"], record["error"]) == ("interrupted", lines[-1])
    assert key in (None, record["key"])


def test_a_second_press_stops_at_once(pretraining: Pretraining, terminal: Terminal) -> None:
    """The second press works even where no checkpoint will come, since the rank is stopped."""
    pretraining.use(1)
    shutil.rmtree(pretraining.project.data(".work", STAGE), ignore_errors=True)
    terminal.type(*KEDRO)
    terminal.wait_for(5)
    for child in psutil.Process(terminal.process.pid).children():
        child.send_signal(signal.SIGSTOP)
    terminal.press()
    await_state(
        lambda: "Ctrl-C again stops at once" in terminal.log.read_text(), terminal.process.poll, terminal.log.read_text
    )
    assert terminal.process.poll() is None
    terminal.press()
    assert terminal.ended() == 130
    check_pause(pretraining.project, terminal, None, f"stage {STAGE} stopped; ")
