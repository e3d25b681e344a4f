"""Turns as plain rows, each its prompt and its completion: what a pipeline reads, which passes no cache between stages.

The log-probabilities, the largest logits and the experts' loads are those of `completion_logprobs` up to rounding: a
prompt is read for each of its turns, but its tokens count for the first of them alone.

Shapes: T turns of W tokens at most, prompts of P, S = P + W - 1 positions read, D model channels.
"""

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.rollout.teacher import Turns, summed_logprobs
from engine.training.readings import Reading, read
from kernels.host import to_host


def plain_rows(turns: Turns) -> tuple[Tensor, Tensor]:
    """Return the ids that are read, (T, S), padded on the right, and which of them count."""
    longest, width = turns.prompts_NP.shape[1], turns.ids_TW.shape[1]
    prompt_T = turns.prompt_lengths_N[turns.which_T]
    both = torch.cat((turns.prompts_NP[turns.which_T], turns.ids_TW), 1)
    places_S = torch.arange(longest + width - 1, device=both.device)
    moved_TS = places_S + (longest - prompt_T)[:, None]
    ids_TS = both.gather(1, moved_TS.clamp(max=longest + width - 1))
    counted_TS = places_S < (prompt_T + turns.lengths_T - 1)[:, None]
    return ids_TS, counted_TS & (
        _first(turns.which_T, len(turns.prompts_NP))[:, None] | (places_S >= prompt_T[:, None])
    )


def _first(which_T: Tensor, prompts: int) -> Tensor:
    """Return whether each turn is the first one of its prompt, (T,)."""
    turns_T = torch.arange(len(which_T), device=which_T.device)
    first_N = which_T.new_full((prompts,), len(which_T)).scatter_reduce(0, which_T, turns_T, "amin")
    return first_N[which_T] == turns_T


def row_logprobs(head: Linear, hidden_TSD: Tensor, turns: Turns) -> Tensor:
    """Return the log-probability of each whole turn at its temperature, (T,), from the model's output for its row."""
    (lengths,) = to_host(turns.lengths_T)
    counted = np.arange(turns.ids_TW.shape[1]) < lengths[:, None]
    row, place = (placed(index, hidden_TSD.device) for index in np.nonzero(counted))
    before = turns.prompt_lengths_N[turns.which_T][row] - 1 + place
    return summed_logprobs(head, hidden_TSD[row, before], turns, row, place)


def reference_rows(model: K2Model, turns: Turns, dtype: str) -> Tensor:
    """Return what `row_logprobs` gives for the current weights, (T,): without gradient, and nothing is recorded.

    The forward is in the model's own mode and in the type `dtype`; ranks with parts of one model call it together.
    """
    ids, valid = plain_rows(turns)
    (logprobs_T,) = read(model, [Reading(ids, valid, lambda head, y: (row_logprobs(head, y, turns), {}))], dtype)
    return logprobs_T
