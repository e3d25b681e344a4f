"""Compute log-probabilities of given completions, with gradient, reading each distinct prompt once.

A policy step needs many short completions of the same prompt. Reading the prompt again for each of them would be most
of the work (17 tokens of a question against 3 of an answer), so the prompts go into the latent cache once, as in
sampling, and the completions continue from copies of it; autograd runs through the cache.

Shapes: N prompts, M completions, W tokens of the longest completion, D model channels, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.cache import LatentCache
from engine.model.model import K2Model


def completion_logprobs(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    which_M: Tensor,
    completions: Sequence[Sequence[int]],
    temperature: float,
) -> Tensor:
    """Return the log-probability at `temperature` of each whole completion, (M,); completion m follows `which_M[m]`.

    Indices and result are on the model's device. Raises ValueError if a prompt or a completion is empty.
    """
    if not all(prompts) or not all(completions):
        raise ValueError("every prompt and every completion needs at least one token")
    device = model.device
    lengths = [len(tokens) for tokens in completions]
    width, longest = max(lengths), max(map(len, prompts))
    starts = [longest - len(prompt) for prompt in prompts]
    ids_NT = placed([[0] * start + list(prompt) for start, prompt in zip(starts, prompts)], device)
    cache = LatentCache(model.config, len(prompts), longest + width, starts, device=device)
    valid_NT = torch.arange(longest, device=device) >= cache.start_B[:, None]
    hidden_MWD = model.hidden(ids_NT, cache, valid_BT=valid_NT)[:, -1:][which_M]
    targets_MW = placed([list(tokens) + [0] * (width - len(tokens)) for tokens in completions], device)
    counted_MW = torch.arange(width, device=device) < placed(lengths, device)[:, None]
    if width > 1:
        cache.select(which_M)
        read = model.hidden(targets_MW[:, :-1], cache, valid_BT=counted_MW[:, 1:])
        hidden_MWD = torch.cat((hidden_MWD, read), dim=1)
    row, place = (placed(index, device) for index in np.nonzero(np.arange(width) < np.array(lengths)[:, None]))
    logits = model.lm_head(hidden_MWD[row, place]).float() / temperature
    logprobs = logits.log_softmax(-1).gather(-1, targets_MW[row, place][:, None])[:, 0]
    return torch.zeros(len(completions), dtype=logprobs.dtype, device=device).index_add(0, row, logprobs)


def reference_logprobs(
    model: K2Model,
    prompts: Sequence[Sequence[int]],
    which_M: Tensor,
    completions: Sequence[Sequence[int]],
    temperature: float,
) -> Tensor:
    """Return what `completion_logprobs` gives for the current weights, to the bit and without gradient.

    This is the same forward pass, in the same mode and type, over the same rows: any other (the sampler's, or one
    without gradients) rounds differently, in bf16 by hundredths of a nat per response. What training forwards record
    for the optimizer, the largest logits and the experts' loads, is left as it was.
    """
    if not completions:
        return torch.zeros(0, device=model.device)
    with _unrecorded(model):
        return completion_logprobs(model, prompts, which_M, completions, temperature).detach()


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
