"""The run's result on held-out prompts: sampled reward before and after, with the interval of its difference."""

from collections.abc import Sequence

from engine.model.model import K2Model
from engine.rollout.passrate import paired_difference
from engine.rollout.seeds import key
from nodes.rl.families import Family
from nodes.rl.policy import named
from nodes.rl.schema import Parameters


def outcome(before: K2Model, after: K2Model, families: Sequence[Family], p: Parameters) -> dict[str, float | int | str]:
    """Return each family's rewards before and after, and their paired difference with its 95 % interval."""
    metrics: dict[str, float | int | str] = {}
    for family in families:
        rates_before, rates_after = family.rates(before, "evaluation"), family.rates(after, "evaluation")
        gain, low, high = paired_difference(rates_after, rates_before, key(p.seed, "bootstrap"))
        figures = {
            "reward_before": sum(rates_before) / len(rates_before),
            "reward_after": sum(rates_after) / len(rates_after),
            "reward_gain": gain,
            "reward_gain_low": low,
            "reward_gain_high": high,
            "evaluation_prompts": len(rates_before),
        }
        metrics |= named(family.name, figures)
    return metrics
