"""One iteration's responses: sampled, judged, penalised, centred; those without signal are left out.

A response is a sequence of turns: one for a question, as many as the episode has for a tool task. Equal responses to
one prompt are trained on as one row with a count, so that many responses per prompt (a better baseline, less noise)
cost little more than a few.

Shapes: N prompts, K responses each, M distinct responses of informative prompts, T turns of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from engine.keyed import generator, key
from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.data import ALONE, Ranks
from engine.rollout.generate import Completion
from kernels.host import to_host
from nodes.rl.objective import advantages, informative, penalised
from nodes.rl.rewards import Family, SampledResponse
from nodes.rl.schema import Parameters


@dataclass(frozen=True)
class Minibatch:
    """The responses of one optimizer step, or one rank's share of them.

    `prompts` are the distinct prompts of the turns, `completions` the T turns of M distinct responses: turn number t
    follows prompt `which_T[t]` and belongs to response `response_T[t]`. `counts_M` says how often each response was
    drawn, `advantages_M` is its mean advantage, `drawn_logprobs_M` its log-probability at the sampling temperature,
    computed by the sampler in fp32. `total` is the number of all draws for the step's prompts and `live` that of the
    informative ones, each divided by the number of ranks, over which losses and figures are averaged.
    """

    prompts: list[list[int]]
    which_T: Tensor
    completions: list[list[int]]
    response_T: Tensor
    drawn_logprobs_M: Tensor
    advantages_M: Tensor
    counts_M: Tensor
    total: float
    live: float

    @property
    def empty(self) -> bool:
        """Whether no prompt of any rank's share is informative, so that the step is skipped."""
        return not self.live

    def to(self, device: torch.device) -> Self:
        """Return the minibatch with its tensors on a device."""
        return replace(
            self,
            which_T=self.which_T.to(device),
            response_T=self.response_T.to(device),
            drawn_logprobs_M=self.drawn_logprobs_M.to(device),
            advantages_M=self.advantages_M.to(device),
            counts_M=self.counts_M.to(device),
        )


@dataclass(frozen=True)
class Rollouts:
    """An iteration's responses of one family: rows of the table, minibatches, and figures for the history."""

    rows: list[dict[str, Any]]
    minibatches: list[Minibatch]
    temperature: float
    figures: dict[str, float]


def collect(model: K2Model, family: Family, iteration: int, p: Parameters) -> Rollouts:
    """Draw K responses to each of the family's prompts of an iteration and turn them into training data."""
    temperature = family.temperature(iteration)
    responses = family.draw(model, iteration, temperature)
    truncated = [response.truncated for response in responses]
    rewards = penalised([response.score for response in responses], truncated, p.truncation_penalty)
    rewards_NK = torch.tensor(rewards, dtype=torch.float32).view(-1, family.samples)
    if p.reward == "permuted":
        rewards_NK = permuted(rewards_NK, key(p.seed, f"permuted rewards {family.name}", iteration))
    rows = [
        table_row(family.name, response, reward, iteration, temperature)
        for response, reward in zip(responses, to_host(rewards_NK)[0].flatten().tolist(), strict=True)
    ]
    ranks = data.ranks()
    parts = [minibatch(responses, rewards_NK, part, p.minibatches, ranks) for part in range(p.minibatches)]
    minibatches = [part.to(model.device) for part in parts]
    trained = sum(len(batch.counts_M) for batch in minibatches) * ranks.size  # averaged over the ranks' shares
    return Rollouts(rows, minibatches, temperature, figures_of(responses, rewards_NK) | {"rows_trained": trained})


def minibatch(
    responses: Sequence[SampledResponse], rewards_NK: Tensor, part: int, parts: int, ranks: Ranks = ALONE
) -> Minibatch:
    """Return the minibatch of every `parts`-th prompt from `part` on, dealt to the ranks in turn.

    `responses` has K in a row for each prompt.
    """
    samples = rewards_NK.shape[1]
    advantages_NK, live_N = to_host(advantages(rewards_NK), informative(rewards_NK))
    of_step = range(part, len(rewards_NK), parts)
    live = [prompt for prompt in of_step[ranks.rank :: ranks.size] if live_N[prompt]]
    distinct = [
        item
        for prompt in live
        for item in merge(responses[prompt * samples : (prompt + 1) * samples], advantages_NK[prompt].tolist())
    ]
    turns = [(number, *turn) for number, item in enumerate(distinct) for turn in item.response.turns]
    places: dict[tuple[int, ...], int] = {}
    which = [places.setdefault(tuple(prompt), len(places)) for _, prompt, _ in turns]
    return Minibatch(
        prompts=[list(prompt) for prompt in places],
        which_T=torch.tensor(which, dtype=torch.int64),
        completions=[completion.tokens for *_, completion in turns],
        response_T=torch.tensor([number for number, *_ in turns], dtype=torch.int64),
        drawn_logprobs_M=torch.tensor([sum(_logprobs(item.response)) for item in distinct]),
        advantages_M=torch.tensor([sum(item.advantages) / len(item.advantages) for item in distinct]),
        counts_M=torch.tensor([float(len(item.advantages)) for item in distinct]),
        total=len(of_step) * samples / ranks.size,
        live=int(live_N[list(of_step)].sum()) * samples / ranks.size,
    )


def _completions(response: SampledResponse) -> list[Completion]:
    return [completion for _, completion in response.turns]


def _logprobs(response: SampledResponse) -> list[float]:
    return [value for completion in _completions(response) for value in completion.logprobs]


@dataclass(frozen=True)
class Distinct:
    """A response, and the advantages of all its draws."""

    response: SampledResponse
    advantages: list[float]


def merge(responses: Sequence[SampledResponse], advantages_K: Sequence[float]) -> list[Distinct]:
    """Join equal responses to one prompt, in the order of their first draw."""
    distinct: dict[tuple[tuple[int, ...], ...], Distinct] = {}
    for response, advantage in zip(responses, advantages_K, strict=True):
        written = tuple(tuple(completion.tokens) for completion in _completions(response))
        distinct.setdefault(written, Distinct(response, [])).advantages.append(advantage)
    return list(distinct.values())


def permuted(rewards_NK: Tensor, seed: int) -> Tensor:
    """Return rewards shuffled among the K responses of each prompt: same mean, same spread, no information."""
    draws = torch.from_numpy(generator(seed, "within prompt").random(rewards_NK.shape))
    return rewards_NK.gather(1, draws.argsort(dim=1))


def figures_of(responses: Sequence[SampledResponse], rewards_NK: Tensor) -> dict[str, float]:
    """Return the figures of an iteration's sampling. `entropy` is the sampled estimate, in nats per token."""
    n = len(responses)
    tokens = sum(len(completion.tokens) for response in responses for completion in _completions(response))
    return {
        "reward": sum(response.score for response in responses) / n,
        "truncated": sum(response.truncated for response in responses) / n,
        "length": tokens / n,
        "entropy": -sum(sum(_logprobs(response)) for response in responses) / max(tokens, 1),
        "informative": float(to_host(informative(rewards_NK).float().mean())[0]),
    }


def table_row(
    family: str, response: SampledResponse, reward: float, iteration: int, temperature: float
) -> dict[str, Any]:
    """Return the response as a row of the rollouts table."""
    return {
        "iteration": iteration,
        "family": family,
        "prompt": response.prompt,
        "response": response.text,
        "answer": response.answer,
        "reward": reward,
        "truncated": response.truncated,
        "logprob": sum(_logprobs(response)),
        "temperature": temperature,
    }
