"""Signs of life: judged by what changes, while steps are left, and once the outputs are handed over."""

import json
from pathlib import Path

import pytest

from engine.launch.slurm import pulse
from engine.launch.slurm.pulse import Pulse
from engine.launch.slurm.rundir import RunDirectory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    return now


def beat(directory: Path, step: int) -> None:
    (directory / "heartbeat").write_text(json.dumps({"step": step, "steps": 10}))


def test_only_a_job_that_has_begun_to_train_can_fall_silent(tmp_path: Path, clock: list[float]) -> None:
    watched = Pulse(RunDirectory(tmp_path), "7", None, 100)
    clock[0] = 1000
    assert watched.silent_for(0) is None
    beat(tmp_path, 3)
    assert watched.silent_for(0) is None
    clock[0] = 1099
    assert watched.silent_for(0) is None
    clock[0] = 1101
    assert watched.silent_for(0) == 101
    assert watched.silent_for(0) is None, "counted anew"


def test_the_log_and_a_new_attempt_are_signs_of_life(tmp_path: Path, clock: list[float]) -> None:
    beat(tmp_path, 3)
    watched = Pulse(RunDirectory(tmp_path), "7", None, 100)
    watched.silent_for(0)
    for now, sign in ((99, lambda: (tmp_path / "slurm-7.out").write_text("x")), (190, lambda: None)):
        clock[0] = now
        sign()
        assert watched.silent_for(0) is None
    clock[0] = 280
    assert watched.silent_for(1) is None
    clock[0] = 385
    assert watched.silent_for(1) == 105


def test_behind_the_last_step_it_may_be_silent_until_it_is_done(tmp_path: Path, clock: list[float]) -> None:
    beat(tmp_path, 10)
    watched = Pulse(RunDirectory(tmp_path), "7", None, 100)
    watched.silent_for(0)
    clock[0] = 5000
    assert watched.silent_for(0) is None
    (tmp_path / "DONE").touch()
    assert watched.silent_for(0) is None
    (tmp_path / "slurm-7.out").write_text("what is still said then is no work")
    clock[0] = 5101
    assert watched.silent_for(0) == 101
