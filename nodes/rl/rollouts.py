"""One iteration's responses: sampled, judged, penalised, centred; those without signal are left out.

A response is a sequence of turns: one for a question, as many as the episode has for a tool task. Equal responses to
one prompt are trained on as one row with a count, so that many responses per prompt (a better baseline, less noise)
cost little more than a few.

Shapes: N prompts, K responses each, M distinct responses of informative prompts, T turns of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from engine.keyed import generator, key
from engine.model.model import K2Model
from engine.parallel.data import ALONE, Ranks
from engine.parallel.mesh import mesh
from engine.rollout.generate import Completion
from engine.rollout.shared import sharing
from engine.rollout.teacher import Turns
from kernels.host import to_host
from nodes.rl.objective import advantages, informative, penalised
from nodes.rl.rewards import Family, SampledResponse
from nodes.rl.schema import Parameters

_OF_TURNS = {
    "prompts": "prompts_NP",
    "prompt_lengths": "prompt_lengths_N",
    "which": "which_T",
    "completions": "ids_TW",
    "lengths": "lengths_T",
    "temperature": "temperature_T",
}
_OWN = {
    "response": "response_T",
    "drawn_logprobs": "drawn_logprobs_M",
    "old_logprobs": "old_logprobs_M",
    "advantages": "advantages_M",
    "counts": "counts_M",
    "total": "total",
    "live": "live",
}
"""A minibatch's names in a batch, and the fields that hold their tensors: those of its turns, and its own."""


@dataclass(frozen=True)
class Minibatch:
    """The responses of a family for one optimizer step, or one rank's share of them: all that K2's objective reads.

    Turn number t belongs to response `response_T[t]` of M distinct ones. `counts_M` says how often each response was
    drawn, `advantages_M` is its mean advantage. `drawn_logprobs_M` is its log-probability at the sampling temperature
    as the sampler computed it, in fp32, and `old_logprobs_M` as the trainer does, with the weights before the
    iteration's first step. `total` is the number of all draws for the step's prompts, `live` that of the informative
    ones; both are 0-d and of the whole step, whichever rank's share this is.
    """

    turns: Turns
    response_T: Tensor
    drawn_logprobs_M: Tensor
    old_logprobs_M: Tensor
    advantages_M: Tensor
    counts_M: Tensor
    total: Tensor
    live: Tensor

    def to(self, device: torch.device) -> Self:
        """Return the minibatch on a device."""
        return self.of({name: tensor.to(device) for name, tensor in self.packed("").items()}, "")

    def packed(self, family: str) -> dict[str, Tensor]:
        """Return the tensors under flat names, the form of a batch."""
        of_turns = {f"{family}/{name}": getattr(self.turns, field) for name, field in _OF_TURNS.items()}
        return of_turns | {f"{family}/{name}": getattr(self, field) for name, field in _OWN.items()}

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], family: str) -> Self:
        """Return the minibatch of a family in a batch."""
        turns = Turns(**{field: batch[f"{family}/{name}"] for name, field in _OF_TURNS.items()})
        return cls(turns, **{field: batch[f"{family}/{name}"] for name, field in _OWN.items()})


@dataclass(frozen=True)
class Rollouts:
    """An iteration's responses of one family: rows of the table, this rank's minibatches, figures for the history.

    A minibatch is None if none of its prompts is informative, on any rank: there is nothing to learn from it.
    """

    rows: list[dict[str, Any]]
    minibatches: list[Minibatch | None]
    temperature: float
    figures: dict[str, float]


def collect(model: K2Model, family: Family, iteration: int, p: Parameters) -> Rollouts:
    """Draw K responses to each of the family's prompts of an iteration and turn them into training data.

    The ranks share the drawing; each judges all responses, which is quick, and keeps its own part of the minibatches.
    """
    temperature = family.temperature(iteration)
    responses = family.draw(model, iteration, temperature, sharing())
    truncated = [response.truncated for response in responses]
    rewards = penalised([response.score for response in responses], truncated, p.truncation_penalty)
    rewards_NK = torch.tensor(rewards, dtype=torch.float32).view(-1, family.samples)
    if p.reward == "permuted":
        rewards_NK = permuted(rewards_NK, key(p.seed, f"permuted rewards {family.name}", iteration))
    rows = [
        table_row(family.name, response, reward, iteration, temperature)
        for response, reward in zip(responses, to_host(rewards_NK)[0].flatten().tolist(), strict=True)
    ]
    distinct_N = distinct(responses, rewards_NK)
    minibatches = [
        minibatch(distinct_N, family.samples, temperature, part, p.minibatches, mesh().rows)
        for part in range(p.minibatches)
    ]
    trained = float(sum(map(len, distinct_N)))
    return Rollouts(rows, minibatches, temperature, figures_of(responses, rewards_NK) | {"rows_trained": trained})


@dataclass(frozen=True)
class Distinct:
    """A response, and the advantages of all its draws."""

    response: SampledResponse
    advantages: list[float]


def distinct(responses: Sequence[SampledResponse], rewards_NK: Tensor) -> list[list[Distinct]]:
    """Return each prompt's distinct responses; an uninformative prompt has none. `responses` has K for each prompt."""
    samples = rewards_NK.shape[1]
    advantages_NK, live_N = to_host(advantages(rewards_NK), informative(rewards_NK))
    return [
        merge(responses[prompt * samples : (prompt + 1) * samples], advantages_K.tolist()) if live else []
        for prompt, (advantages_K, live) in enumerate(zip(advantages_NK, live_N, strict=True))
    ]


def minibatch(
    distinct_N: Sequence[list[Distinct]],
    samples: int,
    temperature: float,
    part: int = 0,
    parts: int = 1,
    ranks: Ranks = ALONE,
) -> Minibatch | None:
    """Return the minibatch of every `parts`-th prompt from `part` on, dealt to the ranks in turn; None if it is empty.

    The old log-probabilities are the sampler's.
    """
    of_step = distinct_N[part::parts]
    live = sum(map(bool, of_step)) * samples
    if not live:
        return None
    own = [item for items in of_step[ranks.rank :: ranks.size] for item in items]
    turns = [(number, *turn) for number, item in enumerate(own) for turn in item.response.turns]
    places: dict[tuple[int, ...], int] = {}
    which = [places.setdefault(tuple(prompt), len(places)) for _, prompt, _ in turns]
    drawn_logprobs_M = torch.tensor([sum(_logprobs(item.response)) for item in own])
    return Minibatch(
        Turns.of(list(places), which, [completion.tokens for *_, completion in turns], temperature),
        response_T=torch.tensor([number for number, *_ in turns], dtype=torch.int64),
        drawn_logprobs_M=drawn_logprobs_M,
        old_logprobs_M=drawn_logprobs_M,
        advantages_M=torch.tensor([sum(item.advantages) / len(item.advantages) for item in own]),
        counts_M=torch.tensor([float(len(item.advantages)) for item in own]),
        total=torch.tensor(float(len(of_step) * samples), dtype=torch.float64),
        live=torch.tensor(float(live), dtype=torch.float64),
    )


def _completions(response: SampledResponse) -> list[Completion]:
    return [completion for _, completion in response.turns]


def _logprobs(response: SampledResponse) -> list[float]:
    return [value for completion in _completions(response) for value in completion.logprobs]


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
