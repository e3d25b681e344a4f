"""Spikes and non-finite steps: the rule by its formula, what stops and what is skipped, and the same after a resume."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.training.guard import EMPTY, WINDOW, Guard, StepVerdict


def row(step, loss, norm=1.0):
    return {"step": step, "loss": loss, "grad_norm": norm}


@settings(max_examples=100)
@given(st.lists(st.floats(0.1, 20), min_size=WINDOW, max_size=3 * WINDOW), st.floats(0.1, 200))
def test_the_rule_is_the_formula_on_the_last_50_losses(past, loss):
    guard = Guard("run", False, 1)
    guard.recall([row(i, value) for i, value in enumerate(past)])
    last = np.array(past[-50:])
    spread = np.median(np.abs(last - np.median(last)))
    limit = np.median(last) + 6 * 1.4826 * spread if spread else math.inf
    actual = guard.limit()
    assert actual == pytest.approx(limit, rel=1e-12)
    judged = row(len(past), loss)
    assert guard.judge(judged).take
    assert bool(judged["spike"]) == (loss > actual)


def test_fewer_than_50_losses_and_losses_without_spread_say_nothing():
    guard = Guard("run", True, 1)
    for step in range(WINDOW - 1):
        assert guard.judge(row(step, 2.0 + step % 2)).take
    assert guard.judge(row(WINDOW, 1e9)).take
    flat = Guard("run", True, 1)
    flat.recall([row(i, 2.0) for i in range(WINDOW)])
    assert flat.judge(row(WINDOW, 3.0)).take


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_marked_and_told_and_skipped_only_if_asked_to(skip):
    guard = Guard("run", skip, 1)
    guard.recall([row(i, 2.0 + i % 3 / 10) for i in range(WINDOW)])
    judged = row(WINDOW, 9.0)
    verdict = guard.judge(judged)
    assert judged["spike"] == 1.0
    assert verdict.take is not skip
    assert "run: loss 9 is a spike (over 2.9" in verdict.note
    assert f"at step {WINDOW}" in verdict.note
    assert verdict.note.endswith("the step is skipped") is skip
    assert guard.losses[-1] == 9.0, "a spike is one of the last losses too, skipped or not"


@pytest.mark.parametrize(
    ("loss", "norm", "name"), [(math.nan, 1.0, "loss is nan"), (2.0, math.inf, "grad_norm is inf")]
)
def test_the_first_non_finite_step_stops(loss, norm, name):
    with pytest.raises(UserError, match=f"run: {name} at step 7; lower the learning rate"):
        Guard("run", False, 1).judge(row(7, loss, norm))


def test_non_finite_steps_are_skipped_until_there_are_too_many_in_a_row():
    guard = Guard("run", False, 3)
    for step, loss in enumerate([2.0, math.nan, math.nan, 2.0, math.inf, math.nan]):
        judged = row(step, loss)
        verdict = guard.judge(judged)
        assert verdict.take is math.isfinite(loss)
        assert (judged.get("nonfinite") == 1.0) is not math.isfinite(loss)
        assert judged["spike"] == (0.0 if math.isfinite(loss) else 1.0), "a skip counts as a spike"
    with pytest.raises(UserError, match="at step 6, 3 such steps in a row"):
        guard.judge(row(6, math.nan))


@settings(max_examples=50)
@given(st.lists(st.one_of(st.floats(1, 3), st.just(30.0), st.just(math.nan)), max_size=130), st.integers(0, 130))
def test_a_guard_that_reads_the_history_back_goes_on_alike(losses, cut):
    def judged(guard, losses):
        rows = [row(0, loss) for loss in losses]
        notes = [guard.judge(one) for one in rows]
        return rows, notes

    straight, resumed = Guard("run", True, 200), Guard("run", True, 200)
    rows, notes = judged(straight, losses)
    kept = [
        {k: v for k, v in one.items() if not (one.get("nonfinite") and isinstance(v, float) and not math.isfinite(v))}
        for one in rows[:cut]
    ]
    resumed.recall(json.loads(json.dumps(kept)))
    assert judged(resumed, losses[cut:])[1] == notes[cut:]


def test_steps_with_nothing_to_learn_from_do_not_hide_a_spike():
    past = [row(i, 2.0 + i % 3 / 10) for i in range(WINDOW)]
    empty = [row(WINDOW + i, 0.0, 0.0) | {EMPTY: 1.0} for i in range(WINDOW)]
    live, read = Guard("run", True, 1), Guard("run", True, 1)
    for one in past + empty:
        assert live.judge(one) == StepVerdict(take=not one.get(EMPTY)), "an empty step is skipped without a word"
    read.recall(past + empty)
    for guard in (live, read):
        assert not guard.judge(row(2 * WINDOW, 9.0)).take


def test_an_empty_step_does_not_break_a_row_of_non_finite_ones():
    guard = Guard("run", True, 2)
    guard.judge(row(0, math.nan))
    guard.judge(row(1, 0.0) | {EMPTY: 1.0})
    with pytest.raises(UserError, match="2 such steps"):
        guard.judge(row(2, math.nan))
