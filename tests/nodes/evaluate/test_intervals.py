import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from nodes.evaluate.intervals import bootstrap_mean, bootstrap_ratio, paired_difference, wilson


@given(n=st.integers(1, 2000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n, share, confidence):
    k = round(n * share)
    ours, theirs = wilson(k, n, confidence), binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert ours.value == pytest.approx(k / n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


def test_bootstrap_mean_agrees_with_the_normal_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=800)
    got = bootstrap_mean(list(values), seed=1, purpose="t")
    half = norm.ppf(0.975) * values.std() / np.sqrt(800)
    assert got.value == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_ratio_is_sum_over_sum_not_mean_of_ratios():
    got = bootstrap_ratio([10.0, 1.0], [1.0, 10.0], seed=0, purpose="t")
    assert got.value == pytest.approx(11 / 11)
    assert got.low <= got.value <= got.high


def test_bootstrap_is_keyed_by_seed_and_purpose():
    values = [0.0, 1.0, 5.0, 2.0, 9.0, 3.5]
    assert bootstrap_mean(values, 1, "a") == bootstrap_mean(values, 1, "a")
    assert bootstrap_mean(values, 1, "a") != bootstrap_mean(values, 2, "a")
    assert bootstrap_mean(values, 1, "a") != bootstrap_mean(values, 1, "b")


def test_constant_values_have_no_width():
    got = bootstrap_mean([0.5] * 7, 1, "a")
    assert (got.low, got.value, got.high) == (0.5, 0.5, 0.5)


def test_pairing_removes_what_the_items_share():
    difficulty, ones = np.random.default_rng(2).random(300), [1.0] * 300
    after, before = [list(difficulty + 0.1), ones], [list(difficulty), ones]
    paired = paired_difference(after, before, 1, "t")
    assert (paired.low, paired.value, paired.high) == pytest.approx((0.1, 0.1, 0.1))


def test_pairing_refuses_other_items():
    with pytest.raises(ValueError, match="same items"):
        paired_difference([[1.0, 0.0], [1.0, 1.0]], [[1.0], [1.0]], 1, "t")
    with pytest.raises(ValueError, match="same items"):
        paired_difference([[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 2.0]], 1, "t")


def test_bootstrap_refuses_nothing():
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_ratio([], [], 1, "t")
