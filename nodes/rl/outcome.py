"""The run's result on held-out prompts: sampled reward before and after, with the interval of its difference."""

from collections.abc import Sequence

from engine.intervals import paired_difference
from engine.model.model import K2Model
from engine.rollout.shared import sharing
from nodes.rl.loss import named
from nodes.rl.rewards import Family
from nodes.rl.schema import Parameters


def outcome(before: K2Model, after: K2Model, families: Sequence[Family], p: Parameters) -> dict[str, float | int | str]:
    """Return each family's rewards before and after, and their difference with its 95 % interval.

    Both are of the same prompts, so the interval is one over prompts, each with its own difference.
    """
    metrics: dict[str, float | int | str] = {}
    for family in families:
        rates_before, rates_after = (family.rates(model, "evaluation", sharing()) for model in (before, after))
        ones = [1.0] * len(rates_before)
        gain = paired_difference([rates_after, ones], [rates_before, ones], p.seed, f"gain of {family.name}")
        low, high = gain.ends
        figures = {
            "reward_before": sum(rates_before) / len(rates_before),
            "reward_after": sum(rates_after) / len(rates_after),
            "reward_gain": gain.value,
            "reward_gain_low": low,
            "reward_gain_high": high,
            "evaluation_prompts": len(rates_before),
        }
        metrics |= named(family.name, figures)
    return metrics
