"""The tests of the protocol against scipy, published numbers and their own properties."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from studies.statistics import estimate, holm, p_above, p_below, p_outside, p_within

VALUES = st.lists(st.floats(-5, 5), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-3)
SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


@given(VALUES, st.floats(-3, 3))
def test_t_tests_are_scipys(values: list[float], bound: float) -> None:
    below = scipy.stats.ttest_1samp(values, bound, alternative="less").pvalue
    assert p_below(values, bound) == pytest.approx(below, abs=1e-9)
    assert p_above(values, bound) == pytest.approx(1 - below, abs=1e-9)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate(values).low, estimate(values).high) == pytest.approx(tuple(interval), abs=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_evidence_of_nothing(value: float) -> None:
    for values in ([value, 1.0, 1.0], [value] * 3):
        assert p_below(values, 5.0) == p_above(values, -5.0) == p_within(values, 9.0) == p_outside(values, 0.1) == 1.0


def test_students_own_example() -> None:
    """Student (1908), hours of sleep gained: t = 4.06, one-sided p = 0.0014, interval 0.70 to 2.46."""
    gains = [b - a for a, b in zip(SLEEP, SLEEP_2, strict=True)]
    result = estimate(gains)
    assert result.mean / (result.sd / 10**0.5) == pytest.approx(4.0621, abs=1e-4)
    assert p_above(gains, 0) == pytest.approx(0.001416, abs=1e-6)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


@given(VALUES, st.floats(0.01, 3))
def test_tost_is_the_90_percent_interval_inside_the_margin(values: list[float], margin: float) -> None:
    result = estimate(values, 0.90)
    inside = -margin < result.low and result.high < margin
    p = p_within(values, margin)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == inside
    assert p >= max(p_below(values, margin), p_above(values, -margin)) - 1e-12
    assert not (p < 0.05 and p_outside(values, margin) < 0.05)


def test_without_spread_the_mean_decides() -> None:
    assert (p_below([-1.0] * 5, 0), p_below([0.0] * 5, 0), p_within([0.0] * 5, 0.02)) == (0.0, 1.0, 0.0)
    assert p_below([-1.0], 0) == 1.0


def test_holm_of_a_textbook() -> None:
    """Holm (1979) as in Wikipedia's worked example: 0.01, 0.04, 0.03, 0.005."""
    adjusted = holm({"1": 0.01, "2": 0.04, "3": 0.03, "4": 0.005})
    assert adjusted == pytest.approx({"1": 0.03, "2": 0.06, "3": 0.06, "4": 0.02})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 4))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], unknown: int) -> None:
    named = {str(i): value for i, value in enumerate(p)}
    family = len(p) + unknown
    adjusted = holm(named, family)
    rejected = set()
    for rank, name in enumerate(sorted(named, key=lambda name: named[name])):
        if named[name] * (family - rank) > 0.05:
            break
        rejected.add(name)
    assert {name for name in named if adjusted[name] <= 0.05} == rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_holm_only_firms_up_as_the_table_fills(p: list[float], late: float) -> None:
    named = {str(i): value for i, value in enumerate(p)}
    before, after = holm(named, len(p) + 1), holm({**named, "late": late}, len(p) + 1)
    assert all(after[name] <= before[name] + 1e-12 for name in named)
