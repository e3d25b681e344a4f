"""The trainer's benchmark: trainings that take turns, and what cannot be compared is refused in a sentence."""

import subprocess

import pytest

from benchmarks.trainer import before, turns
from benchmarks.trainer.text import write_text
from benchmarks.trainer.turns import Setting, compare
from benchmarks.trainer.worker import lengthened
from engine.errors import UserError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("inputs"))


def test_trainings_take_turns_and_their_steps_are_timed(inputs, monkeypatch):
    began = []
    start = subprocess.Popen

    def noted(*words, **named):
        began.append(start(*words, **named))
        return began[-1]

    monkeypatch.setattr(turns.subprocess, "Popen", noted)
    one, two = Setting(before.ROOT, "smoke", threads=1), Setting(before.ROOT, "smoke", threads=1, ranks=2)
    ratio, seconds = compare(one, two, inputs, pairs=2, steps=2, clock="wall")
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(seconds["one"] / seconds["other"])
    assert len(began) == 3
    assert all(process.poll() is not None for process in began), "they ended with the benchmark"


def test_a_training_that_ends_by_itself_is_named(inputs, tmp_path):
    setting = Setting(before.ROOT, "no profile", threads=1)
    with pytest.raises(UserError, match="ended by itself"), turns.pretraining(setting, inputs, tmp_path) as trainee:
        trainee.steps(1)


def test_a_clone_without_the_baseline_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(before, "BEFORE", "0" * 40)
    with pytest.raises(UserError, match=r"git has no commit 0+, the baseline .*--unshallow"):
        before.checkout(tmp_path)


def test_schedules_of_both_forms_become_longer():
    phases = [{"shape": "warmup", "length": 4, "end": 1.0}, {"shape": "constant", "length": 6}]
    assert lengthened({"phases": phases, "steps": 10}) == {
        "phases": [{"shape": "warmup", "length": 400, "end": 1.0}, {"shape": "constant", "length": 600}]
    }
    assert lengthened({"warmup": 4, "stable": 6, "peak": 1.0}) == {"warmup": 400, "stable": 600, "peak": 1.0}
