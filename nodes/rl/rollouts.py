"""One iteration's responses: sampled, judged, penalised, centred; what carries no signal set apart.

Shapes: N prompts, K responses each, M responses of informative prompts, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.model.model import K2Model
from engine.rollout.passrate import Response, sample_responses
from engine.rollout.seeds import generator, key
from engine.rollout.verifiable import Item
from engine.text.tokenizer import K2Tokenizer
from engine.training.padded import Padded, pad
from nodes.rl.objective import advantages, informative, penalised, temperature_at
from nodes.rl.schema import Parameters


@dataclass(frozen=True)
class Rollouts:
    """An iteration's responses.

    `policy` holds prompt and response of the M responses of informative prompts, the response counted;
    `old_logprobs_M` are whole-response sums under the policy that drew them, at its temperature.
    """

    rows: list[dict[str, Any]]
    policy: Padded | None
    old_logprobs_M: Tensor
    advantages_M: Tensor
    temperature: float
    figures: dict[str, float]


def collect(model: K2Model, tokenizer: K2Tokenizer, asked: Sequence[Item], iteration: int, p: Parameters) -> Rollouts:
    """Draw K responses to each of the iteration's prompts and turn them into training data."""
    temperature = temperature_at(iteration, p.iterations, p.temperature_start, p.temperature_end)
    responses = sample_responses(
        model,
        tokenizer,
        asked,
        samples=p.samples,
        temperature=temperature,
        max_new_tokens=p.max_new_tokens,
        seed=key(p.seed, "rollout", iteration),
    )
    truncated = [response.completion.truncated for response in responses]
    rewards = penalised([response.score for response in responses], truncated, p.truncation_penalty)
    rewards_NK = torch.tensor(rewards, dtype=torch.float32).view(len(asked), p.samples)
    if p.reward == "permuted":
        rewards_NK = permuted(rewards_NK, key(p.seed, "permuted rewards", iteration))
    live_N = informative(rewards_NK)
    live = live_N[:, None].expand(-1, p.samples).flatten().tolist()
    kept = [response for response, alive in zip(responses, live, strict=True) if alive]
    rows = [
        table_row(response, reward, iteration, temperature)
        for response, reward in zip(responses, rewards_NK.flatten().tolist(), strict=True)
    ]
    return Rollouts(
        rows=rows,
        policy=pad([_counted(response) for response in kept]) if kept else None,
        old_logprobs_M=torch.tensor([sum(response.completion.logprobs) for response in kept]),
        advantages_M=advantages(rewards_NK)[live_N].flatten(),
        temperature=temperature,
        figures=figures_of(responses, float(live_N.float().mean())),
    )


def permuted(rewards_NK: Tensor, seed: int) -> Tensor:
    """Rewards shuffled among the K responses of each prompt: same mean, same spread, no information."""
    draws = torch.from_numpy(generator(seed, "within prompt").random(rewards_NK.shape))
    return rewards_NK.gather(1, draws.argsort(dim=1))


def figures_of(responses: Sequence[Response], informative_share: float) -> dict[str, float]:
    """What the history tells of an iteration's sampling. `entropy` is the sampled estimate, in nats a token."""
    n = len(responses)
    tokens = sum(len(response.completion.tokens) for response in responses)
    return {
        "reward": sum(response.score for response in responses) / n,
        "truncated": sum(response.completion.truncated for response in responses) / n,
        "length": tokens / n,
        "entropy": -sum(sum(response.completion.logprobs) for response in responses) / tokens,
        "informative": informative_share,
    }


def table_row(response: Response, reward: float, iteration: int, temperature: float) -> dict[str, Any]:
    """The response as a row of the rollouts table."""
    return {
        "iteration": iteration,
        "prompt": response.item.prompt,
        "response": response.text,
        "answer": response.item.answer,
        "reward": reward,
        "truncated": response.completion.truncated,
        "logprob": sum(response.completion.logprobs),
        "temperature": temperature,
    }


def _counted(response: Response) -> tuple[list[int], list[bool]]:
    prompt, answer = response.prompt_ids, response.completion.tokens
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)
