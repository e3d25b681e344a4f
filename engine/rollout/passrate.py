"""Sample responses to verifiable questions, and return the share of them that is right.

The pass rate at temperature 1 is the reward that reinforcement learning raises; greedy decoding would measure
something else. How certain a difference of two checkpoints' rates is: engine/intervals.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.config import K2Config, require_context
from engine.model.model import K2Model
from engine.parallel.data import ALONE, Ranks
from engine.rollout.generate import Completion
from engine.rollout.shared import generate_shared
from engine.rollout.verifiable import Item, question, score
from engine.text.chat import encode_chat
from engine.text.tokenizer import K2Tokenizer


@dataclass(frozen=True)
class Response:
    """One sampled response: its question, the prompt's tokens, the completion, and whether it is right (1.0 or 0.0)."""

    item: Item
    prompt_ids: list[int]
    completion: Completion
    text: str
    score: float


def encode_prompts(tokenizer: K2Tokenizer, items: Sequence[Item]) -> list[list[int]]:
    """Return the tokens of each item's question, up to where its answer begins."""
    return [encode_chat(tokenizer, question(item), add_generation_prompt=True)[0] for item in items]


def require_room(
    config: K2Config, tokenizer: K2Tokenizer, items: Sequence[Item], max_new_tokens: int, field: str
) -> None:
    """Refuse `max_new_tokens`, the value of parameter `field`, if the longest prompt leaves no room for it."""
    longest = max(map(len, encode_prompts(tokenizer, items)))
    require_context(config, longest + max_new_tokens, f"{field} with the longest prompt ({longest})")


def sample_responses(
    model: K2Model,
    tokenizer: K2Tokenizer,
    items: Sequence[Item],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    ranks: Ranks = ALONE,
) -> list[Response]:
    """Draw `samples` responses to each item, in the items' order; a response ends at the end of its turn.

    `ranks` share the drawing: all of them call this together.
    """
    stop = tokenizer.im_end_id
    prompts = [ids for ids in encode_prompts(tokenizer, items) for _ in range(samples)]
    completions = generate_shared(model, prompts, max_new_tokens, temperature, seed, stop, ranks=ranks)
    repeated = [item for item in items for _ in range(samples)]
    out = []
    for item, prompt, completion in zip(repeated, prompts, completions, strict=True):
        text = tokenizer.decode([token for token in completion.tokens if token != stop])
        out.append(Response(item, prompt, completion, text, 0.0 if completion.truncated else score(item, text)))
    return out


def pass_rates(
    model: K2Model,
    tokenizer: K2Tokenizer,
    items: Sequence[Item],
    *,
    samples: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    ranks: Ranks = ALONE,
) -> list[float]:
    """Return the share of right responses for each item; a truncated response is wrong. Their mean is the pass rate."""
    responses = sample_responses(
        model, tokenizer, items, samples=samples, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
        ranks=ranks,
    )  # fmt: skip
    scores = np.array([response.score for response in responses]).reshape(len(items), samples)
    return [float(rate) for rate in scores.mean(axis=1)]
