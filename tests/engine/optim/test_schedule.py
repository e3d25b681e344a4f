"""WSD: its values, and that resuming and branching leave the past as it was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.optim.schedule import K2, K2_STEP, WSD

phases = st.tuples(*[st.integers(0, 30)] * 4)


def made(warmup, stable, decay, anneal):
    return WSD(1.0, 0.1, 0.035, warmup, stable, decay, anneal)


@settings(max_examples=100)
@given(phases)
def test_the_rate_rises_holds_falls_and_ends_where_asked(lengths):
    warmup, stable, decay, anneal = lengths
    schedule = made(*lengths)
    rates = [schedule.lr(tokens) for tokens in range(1, schedule.total + 1)]
    top = warmup + stable
    assert rates[:top] == sorted(rates[:top])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(0 < rate <= 1.0 for rate in rates)
    if warmup:
        assert rates[warmup - 1] == 1.0
        assert schedule.lr(0) == 0.0
    assert rates[warmup:top] == [1.0] * stable
    if decay:
        assert rates[top + decay - 1] == pytest.approx(0.1)
    if anneal:
        assert rates[-1] == pytest.approx(0.035)
    assert schedule.lr(schedule.total + 10**6) == schedule.lr(schedule.total)


def test_the_papers_values_in_tokens():
    """2e-4 → 2e-5 by cosine from 10T to 15.5T, 7e-6 after 460B more: 1.86e-4 at 11T, 2.36e-5 at 15T (k2-facts 3)."""
    T = 10**12
    assert K2.lr(250 * K2_STEP) == pytest.approx(1e-4)
    assert K2.lr(500 * K2_STEP) == K2.lr(10 * T) == 2e-4
    assert K2.lr(11 * T) == pytest.approx(1.86e-4, rel=0.01)
    assert K2.lr(12_750 * T // 1000) == pytest.approx(1.1e-4, rel=0.01)
    assert K2.lr(15 * T) == pytest.approx(2.36e-5, rel=0.01)
    assert K2.lr(15_500 * T // 1000) == pytest.approx(2e-5)
    assert K2.lr(15_960 * T // 1000) == pytest.approx(7e-6)
    assert K2.total == 15_960 * T // 1000


@settings(max_examples=100)
@given(phases, st.data())
def test_a_branch_is_the_trunk_until_it_leaves_and_then_its_decay(lengths, data):
    warmup, stable, decay, anneal = lengths
    trunk = made(*lengths)
    at = data.draw(st.integers(warmup, warmup + stable))
    branch = trunk.branch(at)
    assert [branch.lr(t) for t in range(at + 1)] == [trunk.lr(t) for t in range(at + 1)]
    later = warmup + stable - at
    tail = range(at + 1, at + decay + anneal + 5)
    assert [branch.lr(t) for t in tail] == [trunk.lr(t + later) for t in tail]
    short = trunk.branch(at, decay=7, anneal=0)
    assert short.total == at + 7
    assert short.lr(at + 7) == pytest.approx(0.1)


@pytest.mark.parametrize("at", [9, 31])
def test_a_branch_outside_the_stable_phase_is_refused(at):
    with pytest.raises(UserError, match="stable phase, which lasts from 10 to 30"):
        made(10, 20, 5, 5).branch(at)


@given(phases, st.integers(1, 10**9))
def test_the_unit_of_length_does_not_matter(lengths, unit):
    steps, tokens = made(*lengths), made(*[length * unit for length in lengths])
    for step in range(steps.total + 3):
        assert tokens.lr(step * unit) == pytest.approx(steps.lr(step), rel=1e-12)
