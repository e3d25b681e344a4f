"""What the run achieved on held-out prompts: sampled reward before and after, with the interval of its difference."""

from engine.model.model import K2Model
from engine.rollout.passrate import paired_difference, pass_rates
from engine.rollout.seeds import key
from engine.rollout.verifiable import items
from engine.text.tokenizer import K2Tokenizer
from nodes.rl.schema import Parameters


def held_out(model: K2Model, tokenizer: K2Tokenizer, p: Parameters) -> list[float]:
    """Pass rate at temperature 1 of each evaluation prompt."""
    return pass_rates(
        model,
        tokenizer,
        items(p.task, "evaluation", p.evaluation_prompts, p.seed),
        samples=p.evaluation_samples,
        max_new_tokens=p.max_new_tokens,
        seed=key(p.seed, "rl evaluation"),
    )


def outcome(before: K2Model, after: K2Model, tokenizer: K2Tokenizer, p: Parameters) -> dict[str, float | int | str]:
    """Rewards before and after, and their paired difference with its 95 % interval."""
    rates_before, rates_after = held_out(before, tokenizer, p), held_out(after, tokenizer, p)
    gain, low, high = paired_difference(rates_after, rates_before, key(p.seed, "bootstrap"))
    return {
        "reward_before": sum(rates_before) / len(rates_before),
        "reward_after": sum(rates_after) / len(rates_after),
        "reward_gain": gain,
        "reward_gain_low": low,
        "reward_gain_high": high,
        "evaluation_prompts": len(rates_before),
    }
