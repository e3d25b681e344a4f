"""SIGKILL and Ctrl-C in the middle of a study, run again: finished units are kept, the others end in the same bits."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from engine.launch.drain import ANNOUNCEMENT
from studies.registration import register
from studies.run import run_study
from tests.kill.pretraining import newest
from tests.nodes import text
from tests.processes import await_state
from tests.project import ENVIRONMENT, ROOT
from tests.studies import run_toy
from tests.studies.toy import register_at, study

pytestmark = pytest.mark.slow
SHORT, LONG = 40, 80
"""Steps of the units of the two budgets; no checkpoint is due before their end."""
LONG_RUNS = "*-2x-*/run"
"""Where the units of the second budget train."""
SECONDS = 240
Found = TypeVar("Found")


class Study:
    """The toy study in a work folder, as a process in a group of its own, as a terminal starts it."""

    def __init__(self, conf: Path, shards: Path, work: Path, log: Path) -> None:
        self.work, self.log = work, log
        self.before = {run: steps(run) for run in work.glob(LONG_RUNS)}
        words = [sys.executable, run_toy.__file__, str(conf), str(shards), str(work)]
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def output(self) -> str:
        """Return all of the study's output."""
        return self.log.read_text(errors="replace")

    def wait_for(self, state: Callable[[], Found]) -> Found:
        """Wait until `state` holds; the study must not end before."""
        return await_state(state, self.process.poll, self.output)

    def in_the_middle(self) -> list[Path]:
        """The folders in which it trains a long unit that has steps of its own behind it and most before it."""
        steps_by_run = {run: steps(run) for run in self.work.glob(LONG_RUNS)}
        return [run for run, step in steps_by_run.items() if max(1, self.before.get(run, 0)) < step < LONG / 2]

    def workers(self) -> list[psutil.Process]:
        """Return the processes in which the study's units train."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def ends(self, disturb: Callable[[], object]) -> int:
        """Disturb it so that it ends; its status. No worker lives on."""
        workers = self.workers()
        disturb()
        status = self.process.wait(SECONDS)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive
        return status

    def press(self) -> None:
        """Send Ctrl-C to the whole group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def press_twice(self) -> None:
        """Ctrl-C again where no checkpoint will come: the workers stand still."""
        for worker in self.workers():
            worker.suspend()
        self.press()
        self.wait_for(lambda: ANNOUNCEMENT.decode().strip() in self.output())
        self.press()

    def check_pause(self, last: str) -> None:
        """Check that the study's last line is this one, and that nothing looks like a failure."""
        assert self.output().splitlines()[-1] == last
        for log in (self.log, *self.work.glob("worker-*.log")):
            assert "Traceback" not in log.read_text(errors="replace")


def test_killed_paused_and_stopped_and_each_time_resumed(tmp_path: Path) -> None:
    shards = text.make(tmp_path / "text")[1]
    conf = register_at(tmp_path / "repository", study(budgets={"1x": SHORT, "2x": LONG}))
    expected, work = finish(conf, shards, tmp_path / "undisturbed"), tmp_path / "work"

    @contextmanager
    def begun() -> Iterator[Study]:
        started = Study(conf, shards, work, tmp_path / "output")
        try:
            yield started
        finally:
            if started.process.poll() is None:
                os.killpg(started.process.pid, signal.SIGKILL)
                started.process.wait()

    with begun() as begun_study:
        begun_study.wait_for(lambda: len(results(work)) >= 4)
        assert begun_study.ends(begun_study.process.kill) == -signal.SIGKILL
    with begun() as begun_study:
        run = begun_study.wait_for(begun_study.in_the_middle)[0]
        assert begun_study.ends(begun_study.press) == 130
        assert 0 < newest(run) < LONG, "the unit left a checkpoint where it was"
        finished = sum("sweep" not in path.parent.name for path in results(work))
        begun_study.check_pause(f"study toy stopped at {finished} of {len(expected)} runs; the same command goes on.")
    with begun() as begun_study:
        begun_study.wait_for(begun_study.in_the_middle)
        assert begun_study.ends(begun_study.press_twice) == 130
        begun_study.check_pause("stopped by Ctrl-C; the same command goes on.")
    results_before = results(work)
    assert finish(conf, shards, work) == expected
    assert results_before.items() <= results(work).items(), "what was finished is not run again"


def finish(conf: Path, shards: Path, work: Path) -> list[tuple[Any, ...]]:
    """Run here what is left of the study in `work`; return the bits of every run."""
    outcome = run_study(register(conf, "toy"), shards, work, ("code", "data"))
    return [
        (run["arm"], run["seed"], run["budget"], run["failed"], run["figures"].get("weights"), str(run["curves"]))
        for run in outcome.runs
    ]


def results(work: Path) -> dict[Path, int]:
    """The finished units' results, and when each was written."""
    folders = os.walk(work)  # which come and go
    paths = (Path(folder) / "result.json" for folder, _, files in folders if "result.json" in files)
    return {path: path.stat().st_mtime_ns for path in paths}


def steps(run: Path) -> int:
    """Return the number of steps in a training unit's history; 0 where it has just ended."""
    try:
        return (run / "history.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0
