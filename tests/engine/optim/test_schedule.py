"""The learning rate by phases: its values, what it refuses, and that it depends on the step alone."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.optim.schedule import K2, K2_STEP, Phase, Schedule

lengths = st.tuples(*[st.integers(0, 30)] * 4).filter(any)
falling = st.lists(st.tuples(st.sampled_from(["constant", "cosine", "linear"]), st.integers(1, 20)), max_size=6)


def made(warmup, stable, decay, anneal):
    """K2's shapes, falling from 1.0 to 0.1 to 0.035; phases without a step are left out."""
    return Schedule.warmed_up(
        1.0, warmup, ("constant", stable, None), ("cosine", decay, 0.1), ("linear", anneal, 0.035)
    )


@settings(max_examples=100)
@given(lengths)
def test_the_rate_rises_holds_falls_and_ends_where_it_should(phases):
    warmup, stable, decay, anneal = phases
    schedule = made(*phases)
    rates = [schedule.lr(step) for step in range(1, schedule.total + 1)]
    top = warmup + stable
    assert schedule.total == sum(phases)
    assert rates[:top] == sorted(rates[:top])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(0 < rate <= 1.0 for rate in rates)
    if warmup:
        assert rates[warmup - 1] == 1.0
        assert schedule.lr(0) == 0.0
    assert rates[warmup:top] == [1.0] * stable
    if decay:
        assert rates[top + decay - 1] == pytest.approx(0.1)
        assert schedule.begin("cosine") == top
    if anneal:
        assert rates[-1] == pytest.approx(0.035)
    assert schedule.begin("linear") == top + decay
    assert schedule.lr(schedule.total + 10**6) == schedule.lr(schedule.total)


@settings(max_examples=100)
@given(falling, st.data())
def test_any_phases_give_rates_without_a_jump_that_end_where_they_say(shapes, data):
    rate, phases = 1.0, []
    for shape, length in shapes:
        rate = rate if shape == "constant" else data.draw(st.floats(rate / 4, rate))
        phases.append(Phase(shape=shape, length=length, end=None if shape == "constant" else rate))
    schedule = Schedule(phases=(Phase(shape="warmup", length=3, end=1.0), *phases))
    rates = [schedule.lr(step) for step in range(schedule.total + 1)]
    assert all(later <= before * (1 + 1e-12) for before, later in pairwise(rates[3:]))
    assert rates[-1] == pytest.approx(rate)
    at = 3
    for before, phase in zip([1.0, *(phase.end for phase in phases)], phases):
        assert phase.shape == "constant" or before is None or rates[at] == pytest.approx(before)
        at += phase.length


def test_the_papers_values_in_tokens():
    """2e-4 → 2e-5 by cosine from 10T to 15.5T, 7e-6 after 460B more: 1.86e-4 at 11T, 2.36e-5 at 15T (k2-facts 3)."""
    T = 10**12
    assert K2.lr(250 * K2_STEP) == pytest.approx(1e-4)
    assert K2.lr(500 * K2_STEP) == K2.lr(10 * T) == K2.peak == 2e-4
    assert K2.lr(11 * T) == pytest.approx(1.86e-4, rel=0.01)
    assert K2.lr(12_750 * T // 1000) == pytest.approx(1.1e-4, rel=0.01)
    assert K2.lr(15 * T) == pytest.approx(2.36e-5, rel=0.01)
    assert K2.lr(15_500 * T // 1000) == pytest.approx(2e-5)
    assert K2.lr(15_960 * T // 1000) == pytest.approx(7e-6)
    assert K2.total == 15_960 * T // 1000
    assert K2.begin("linear") == 15_500 * T // 1000


@given(lengths, st.integers(1, 10**9))
def test_the_unit_of_length_does_not_matter(phases, unit):
    steps, tokens = made(*phases), made(*[length * unit for length in phases])
    for step in range(steps.total + 3):
        assert tokens.lr(step * unit) == pytest.approx(steps.lr(step), rel=1e-12)


WARM, LINE = {"shape": "warmup", "length": 2, "end": 1.0}, {"shape": "linear", "length": 4, "end": 0.5}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"phases": []}, "no phase, so no step"),
        ({"phases": [WARM, LINE], "steps": 7}, "add up to 6 steps, but steps is 7"),
        ({"phases": [LINE]}, r"phases\.0 begins at a rate of 0; give start"),
        ({"phases": [LINE], "start": 0.25}, r"the rates must fall: phases\.0 ends at 0\.5, above 0\.25"),
        ({"phases": [WARM, LINE | {"end": 2.0}]}, r"the rates must fall: phases\.1 ends at 2, above 1"),
        ({"phases": [LINE, WARM], "start": 1.0}, r"phases\.1: a warm-up rises from 0; put it first"),
        ({"phases": [WARM, LINE], "start": 1.0}, r"phases\.0: a warm-up rises from 0"),
        ({"phases": [WARM, LINE | {"length": 0}]}, "greater than or equal to 1"),
        ({"phases": [WARM, {"shape": "cosine", "length": 4}]}, "a cosine phase needs the rate at its end"),
        ({"phases": [WARM, {"shape": "constant", "length": 4, "end": 1.0}]}, "a constant phase has no end"),
        ({"phases": [WARM | {"lenght": 2}]}, "lenght"),
        ({"phases": [WARM | {"shape": "step"}]}, "shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(values, problem):
    with pytest.raises(ValidationError, match=problem):
        Schedule.model_validate(values)


def test_the_steps_that_are_stated_may_be_the_phases_sum():
    assert Schedule.model_validate({"phases": [WARM, LINE], "steps": 6}).total == 6
