"""What a run reports of its held-out reward: both rates, and an interval that is honest about few prompts."""

from types import SimpleNamespace

import numpy as np
import pytest

from nodes.rl.outcome import outcome

BEFORE = [0.0, 0.5, 0.25, 1.0, 0.0, 0.75, 0.5, 0.25]
AFTER = [0.5, 0.5, 0.75, 1.0, 0.25, 0.5, 1.0, 0.25]


def reported(before, after):
    """The metrics of a family with these rates; the models are named by them."""
    family = SimpleNamespace(name="sums", rates=lambda model, held, ranks: {"before": before, "after": after}[model])
    return outcome("before", "after", [family], SimpleNamespace(seed=1))


def test_rewards_and_their_difference_with_both_ends():
    metrics = reported(BEFORE, AFTER)
    assert metrics["reward_before"] == pytest.approx(np.mean(BEFORE))
    assert metrics["reward_after"] == pytest.approx(np.mean(AFTER))
    assert metrics["reward_gain"] == pytest.approx(metrics["reward_after"] - metrics["reward_before"])
    assert metrics["evaluation_prompts"] == 8
    assert reported(BEFORE, AFTER) == metrics


def test_the_interval_is_over_prompts_and_wider_than_plain_percentiles_of_eight():
    """Those would hold the truth in fewer than nine of ten runs where 95 % is said (tests/engine/test_intervals.py)."""
    difference = np.subtract(AFTER, BEFORE)
    means = np.random.default_rng(1).choice(difference, (20_000, 8)).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    metrics = reported(BEFORE, AFTER)
    assert metrics["reward_gain_low"] < low - 0.02
    assert metrics["reward_gain_high"] > high + 0.02


def test_what_all_prompts_gain_alike_is_known_exactly():
    metrics = reported([0.25, 0.5, 0.0], [0.5, 0.75, 0.25])
    assert [metrics[f"reward_gain{end}"] for end in ("", "_low", "_high")] == [0.25] * 3
