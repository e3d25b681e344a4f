"""Turns as plain rows, each its prompt and its completion: what a pipeline reads, which passes no cache between stages.

The log-probabilities are those of `completion_logprobs` up to rounding. A prompt is read once for each of its turns, so
experts' loads count it as often; the largest logits are the same.

Shapes: T turns of W tokens at most, prompts of P, S = P + W - 1 positions read, D model channels.
"""

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.layers import Linear
from engine.rollout.teacher import Turns, summed_logprobs
from kernels.host import to_host


def plain_rows(turns: Turns) -> tuple[Tensor, Tensor]:
    """Return the ids that are read, (T, S), padded on the right, and which of them are not padding."""
    longest, width = turns.prompts_NP.shape[1], turns.ids_TW.shape[1]
    prompt_T = turns.prompt_lengths_N[turns.which_T]
    both = torch.cat((turns.prompts_NP[turns.which_T], turns.ids_TW), 1)
    places_S = torch.arange(longest + width - 1, device=both.device)
    moved_TS = places_S + (longest - prompt_T)[:, None]
    ids_TS = both.gather(1, moved_TS.clamp(max=longest + width - 1))
    return ids_TS, places_S < (prompt_T + turns.lengths_T - 1)[:, None]


def row_logprobs(head: Linear, hidden_TSD: Tensor, turns: Turns) -> Tensor:
    """Return the log-probability of each whole turn at its temperature, (T,), from the model's output for its row."""
    (lengths,) = to_host(turns.lengths_T)
    counted = np.arange(turns.ids_TW.shape[1]) < lengths[:, None]
    row, place = (placed(index, hidden_TSD.device) for index in np.nonzero(counted))
    before = turns.prompt_lengths_N[turns.which_T][row] - 1 + place
    return summed_logprobs(head, hidden_TSD[row, before], turns, row, place)
