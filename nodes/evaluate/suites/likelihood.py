"""Negative log-likelihood of tokens under a model, computed in batches.

Shapes: N windows or rows, T positions, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.model.model import K2Model
from engine.training.padded import pad, response_logprobs
from kernels.host import to_host


@torch.no_grad()
def window_nats(model: K2Model, tokens_NT: Tensor, batch: int) -> Tensor:
    """Return the nats of each target of each window, (N, T) ids → (N, T - 1): position t is the loss on token t + 1.

    The windows may be on the host; the result is on the model's device.
    """
    return torch.cat([_nats(model, part.to(model.device)) for part in tokens_NT.split(batch)])


def _nats(model: K2Model, ids_BT: Tensor) -> Tensor:
    logits_BTV = model(ids_BT[:, :-1]).float()
    return torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")


@torch.no_grad()
def continuation_logprobs(
    model: K2Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch: int
) -> list[float]:
    """Return the log-probability in nats of each row's continuation; rows are (context, continuation) ids.

    Rows are scored shortest first, for little padding, and returned in their own order.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    logprobs = [0.0] * len(rows)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        padded = pad([([*c, *a], [0] * len(c) + [1] * len(a)) for c, a in (rows[i] for i in chosen)])
        (values,) = to_host(response_logprobs(model, padded.to(model.device)))
        for i, value in zip(chosen, values.tolist(), strict=True):
            logprobs[i] = value
    return logprobs
