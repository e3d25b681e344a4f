"""Compute log-probabilities of given completions, with gradient, reading each distinct prompt once.

A policy step needs many short completions of the same prompt. Reading the prompt again for each of them would be most
of the work (17 tokens of a question against 3 of an answer), so the prompts go into the latent cache once, as in
sampling, and the completions continue from copies of it; autograd runs through the cache. Prompts of very different
lengths, as those of a dialogue's turns, are read in parts of similar length, so that little of the work is padding.

Shapes: N prompts of P tokens at most, T turns (completions) of W tokens at most, D model channels, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.cache import LatentCache
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.training.even import evened
from kernels.host import to_host
from kernels.precision import wide

SIMILAR = 0.75
LEAST_TOKENS = 1024
"""Prompts of fewer tokens are read together whatever their lengths: a read has its own cost."""


@dataclass(frozen=True)
class Turns:
    """Completions and the prompts that they follow: turn t has `ids_TW[t]` and follows prompt `which_T[t]`.

    Prompts are padded on the left, completions on the right, to the longest (`prompt_lengths_N`, `lengths_T`).
    `temperature_T` is the temperature at which each turn was sampled.
    """

    prompts_NP: Tensor
    prompt_lengths_N: Tensor
    which_T: Tensor
    ids_TW: Tensor
    lengths_T: Tensor
    temperature_T: Tensor

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        which: Sequence[int],
        completions: Sequence[Sequence[int]],
        temperature: float,
    ) -> Self:
        """Return turns on the CPU. Raises ValueError if a prompt or a completion is empty."""
        if not all(prompts) or not all(completions):
            raise ValueError("every prompt and every completion needs at least one token")
        longest, width = (max(map(len, ids), default=1) for ids in (prompts, completions))
        prompts_NP = np.zeros((len(prompts), longest), dtype=np.int64)
        ids_TW = np.zeros((len(completions), width), dtype=np.int64)
        for padded, ids in zip(prompts_NP, prompts, strict=True):
            padded[longest - len(ids) :] = ids
        for padded, ids in zip(ids_TW, completions, strict=True):
            padded[: len(ids)] = ids
        lengths = (np.array([len(ids) for ids in rows], dtype=np.int64) for rows in (prompts, completions))
        prompt_lengths_N, lengths_T = map(torch.from_numpy, lengths)
        which_T = torch.tensor(which, dtype=torch.int64)
        temperature_T = torch.full((len(completions),), temperature)
        return cls(
            torch.from_numpy(prompts_NP), prompt_lengths_N, which_T, torch.from_numpy(ids_TW), lengths_T, temperature_T
        )

    def part(self, prompts: np.ndarray[Any, Any], turns: np.ndarray[Any, Any], longest: int, width: int) -> Self:
        """Return some prompts and their turns, given by their numbers, padded to `longest` and `width` tokens."""
        device = self.which_T.device
        number = np.zeros(len(self.prompts_NP), dtype=np.int64)
        number[prompts] = np.arange(len(prompts))
        n, t = placed(prompts, device), placed(turns, device)
        return type(self)(
            self.prompts_NP[n, self.prompts_NP.shape[1] - longest :], self.prompt_lengths_N[n],
            placed(number, device)[self.which_T[t]], self.ids_TW[t, :width], self.lengths_T[t], self.temperature_T[t],
        )  # fmt: skip


def completion_logprobs(model: K2Model, turns: Turns) -> Tensor:
    """Return the log-probability of each whole turn, of which there is at least one, at its temperature, (T,)."""
    prompt_lengths, which, lengths = to_host(turns.prompt_lengths_N, turns.which_T, turns.lengths_T)
    parts = alike(prompt_lengths.tolist())
    if len(parts) == 1:
        return _logprobs(model, turns)
    rows = [np.flatnonzero(np.isin(which, prompts)) for prompts in parts]
    logprobs = [
        _logprobs(model, turns.part(prompts, own, int(prompt_lengths[prompts].max()), int(lengths[own].max())))
        for prompts, own in zip(parts, rows, strict=True)
    ]
    return torch.cat(logprobs)[placed(np.argsort(np.concatenate(rows)), model.device)]


def alike(lengths: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    """Return the numbers of prompts by length, the longest first, in parts that hold little padding.

    A part ends before a prompt of less than `SIMILAR` of its longest, once it has `LEAST_TOKENS` tokens.
    """
    parts: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        longest = lengths[parts[-1][0]] if parts else 0
        if not parts or (lengths[number] < SIMILAR * longest and len(parts[-1]) * longest >= LEAST_TOKENS):
            parts.append([])
        parts[-1].append(number)
    return [np.array(sorted(part)) for part in parts]


def _logprobs(model: K2Model, turns: Turns) -> Tensor:
    """Return what `completion_logprobs` does, of turns whose prompts are padded to one length."""
    device, (longest, width) = model.device, (turns.prompts_NP.shape[1], turns.ids_TW.shape[1])
    prompt_lengths, lengths = to_host(turns.prompt_lengths_N, turns.lengths_T)
    starts = [longest - length for length in prompt_lengths.tolist()]
    dtype = wide(model.lm_head.weight.dtype)
    cache = LatentCache(model.config, len(starts), longest + width, starts, dtype, device)
    valid_NP = torch.arange(longest, device=device) >= cache.start_B[:, None]
    hidden_TWD = model.hidden(turns.prompts_NP, cache, valid_BT=valid_NP)[:, -1:][turns.which_T]
    counted_TW = torch.arange(width, device=device) < turns.lengths_T[:, None]
    if width > 1:
        cache.select(turns.which_T)
        read = model.hidden(turns.ids_TW[:, :-1], cache, valid_BT=counted_TW[:, 1:])
        hidden_TWD = torch.cat((hidden_TWD, read), dim=1)
    row, place = (placed(index, device) for index in np.nonzero(np.arange(width) < lengths[:, None]))
    return summed_logprobs(model.lm_head, hidden_TWD[row, place], turns, row, place)


def summed_logprobs(head: Linear, hidden_MD: Tensor, turns: Turns, row_M: Tensor, place_M: Tensor) -> Tensor:
    """Return turns' log-probabilities, (T,), from the model's output before the M tokens at rows and places of them."""
    logits = head(hidden_MD)
    logits = logits.to(wide(logits.dtype)) / turns.temperature_T[row_M, None]
    logprobs = logits.log_softmax(-1).gather(-1, turns.ids_TW[row_M, place_M][:, None])[:, 0]
    whole = torch.zeros(len(turns.ids_TW), dtype=logprobs.dtype, device=logprobs.device)
    return whole.index_add(0, row_M, logprobs)


def reference_logprobs(model: K2Model, turns: Turns) -> Tensor:
    """Return what `completion_logprobs` gives for the current weights, to the bit and without gradient.

    This is the same forward pass, in the same mode and type, over the same rows: any other (the sampler's, or one
    without gradients) rounds differently, in bf16 by hundredths of a nat per response. What training forwards record
    for the optimizer, the largest logits and the experts' loads, is left as it was.
    """
    with _unrecorded(model):
        logprobs_T, _ = evened(_logprobs_of_any)(model, turns)
        return logprobs_T.detach()


def _logprobs_of_any(model: K2Model, turns: Turns) -> tuple[Tensor, None]:
    """Return what `completion_logprobs` gives, also where there is no turn, and no figures."""
    return completion_logprobs(model, turns) if len(turns.ids_TW) else torch.zeros(0, device=model.device), None


@contextmanager
def _unrecorded(model: K2Model) -> Iterator[None]:
    maxima = [(attention, attention.max_logit_H.clone()) for attention in model.attentions()]
    loads = [(router, router.load_E.clone()) for router in model.routers().values()]
    try:
        yield
    finally:
        for attention, max_logit_H in maxima:
            attention.max_logit_H = max_logit_H
        for router, load_E in loads:
            router.load_E.copy_(load_E)
