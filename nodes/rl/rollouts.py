"""One iteration's responses: sampled, judged, penalised, centred; what carries no signal set apart.

Short answers are often drawn more than once for the same prompt; such draws are trained on as one row with a count,
which makes many responses a prompt (a better baseline, less noise) cost little more than a few.

Shapes: N prompts, K responses each, M distinct responses of informative prompts, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.data import ALONE, World
from engine.rollout.passrate import Response, sample_responses
from engine.rollout.seeds import generator, key
from engine.rollout.verifiable import Item
from engine.text.tokenizer import K2Tokenizer
from nodes.rl.objective import advantages, informative, penalised, temperature_at
from nodes.rl.schema import Parameters


@dataclass(frozen=True)
class Minibatch:
    """The responses of one optimizer step, or one rank's share of them.

    `prompts` are the informative ones and `completions` their M distinct responses, number m to prompt `which_M[m]`.
    `counts_M` says how often each was drawn, `advantages_M` their mean advantage, `drawn_logprobs_M` whole-response
    sums at the sampling temperature, computed by the sampler in fp32. `total` is the number of all draws for the step's
    prompts and `live` that of the informative ones, each divided by the number of ranks, over which losses and figures
    are averaged.
    """

    prompts: list[list[int]]
    which_M: Tensor
    completions: list[list[int]]
    drawn_logprobs_M: Tensor
    advantages_M: Tensor
    counts_M: Tensor
    total: float
    live: float

    @property
    def empty(self) -> bool:
        """Whether no prompt of any rank's share is informative: there is nothing to take a step on."""
        return not self.live


@dataclass(frozen=True)
class Rollouts:
    """An iteration's responses: rows of the table, minibatches, and figures for the history."""

    rows: list[dict[str, Any]]
    minibatches: list[Minibatch]
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
    rows = [
        table_row(response, reward, iteration, temperature)
        for response, reward in zip(responses, rewards_NK.flatten().tolist(), strict=True)
    ]
    world = data.world()
    minibatches = [minibatch(responses, rewards_NK, part, p.minibatches, world) for part in range(p.minibatches)]
    trained = sum(len(one.counts_M) for one in minibatches) * world.size  # averaged over the ranks' shares
    return Rollouts(rows, minibatches, temperature, figures_of(responses, rewards_NK) | {"rows_trained": trained})


def minibatch(
    responses: Sequence[Response], rewards_NK: Tensor, part: int, parts: int, world: World = ALONE
) -> Minibatch:
    """Every `parts`-th prompt from `part` on, as one step takes them, dealt to the ranks of `world` in turn.

    `responses` are K in a row for each prompt.
    """
    samples = rewards_NK.shape[1]
    advantages_NK, live_N = advantages(rewards_NK), informative(rewards_NK)
    of_step = range(part, len(rewards_NK), parts)
    live = [prompt for prompt in of_step[world.rank :: world.size] if live_N[prompt]]
    distinct = [
        (place, one)
        for place, prompt in enumerate(live)
        for one in merge(responses[prompt * samples : (prompt + 1) * samples], advantages_NK[prompt].tolist())
    ]
    return Minibatch(
        prompts=[responses[prompt * samples].prompt_ids for prompt in live],
        which_M=torch.tensor([place for place, _ in distinct], dtype=torch.int64),
        completions=[one.response.completion.tokens for _, one in distinct],
        drawn_logprobs_M=torch.tensor([sum(one.response.completion.logprobs) for _, one in distinct]),
        advantages_M=torch.tensor([sum(one.advantages) / len(one.advantages) for _, one in distinct]),
        counts_M=torch.tensor([float(len(one.advantages)) for _, one in distinct]),
        total=len(of_step) * samples / world.size,
        live=int(live_N[list(of_step)].sum()) * samples / world.size,
    )


@dataclass(frozen=True)
class Distinct:
    """A response and the advantages of all draws of it."""

    response: Response
    advantages: list[float]


def merge(responses: Sequence[Response], advantages_K: Sequence[float]) -> list[Distinct]:
    """Join equal responses to one question, in the order of their first draw."""
    found: dict[tuple[int, ...], Distinct] = {}
    for response, advantage in zip(responses, advantages_K, strict=True):
        found.setdefault(tuple(response.completion.tokens), Distinct(response, [])).advantages.append(advantage)
    return list(found.values())


def permuted(rewards_NK: Tensor, seed: int) -> Tensor:
    """Rewards shuffled among the K responses of each prompt: same mean, same spread, no information."""
    draws = torch.from_numpy(generator(seed, "within prompt").random(rewards_NK.shape))
    return rewards_NK.gather(1, draws.argsort(dim=1))


def figures_of(responses: Sequence[Response], rewards_NK: Tensor) -> dict[str, float]:
    """What the history tells of an iteration's sampling. `entropy` is the sampled estimate, in nats a token."""
    n = len(responses)
    tokens = sum(len(response.completion.tokens) for response in responses)
    return {
        "reward": sum(response.score for response in responses) / n,
        "truncated": sum(response.completion.truncated for response in responses) / n,
        "length": tokens / n,
        "entropy": -sum(sum(response.completion.logprobs) for response in responses) / tokens,
        "informative": float(informative(rewards_NK).float().mean()),
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
