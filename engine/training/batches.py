"""Cut a step's batch into micro-batches and deal them to the ranks, so that neither number changes what a step sees.

A batch is what `batch_at(step)` returns: that of the whole step, equal on every rank. A mapping of tensors can be cut
along axis 0; anything else reaches the loss unchanged, and only in a run of one process without micro-batches.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.parallel.data import Ranks

Batch = Any


def pieces(micro_batches: int, size: int) -> int:
    """Return how many pieces a step's batch is cut into: at least `micro_batches`, and equally many per rank."""
    return -(-micro_batches // size) * size


def share(batch: Batch, micro_batches: int, ranks: Ranks, device: torch.device, title: str) -> Iterator[Batch]:
    """Yield this rank's micro-batches on `device`: consecutive pieces of the batch, each row in one rank's share.

    A 0-d tensor is a total over the batch, such as a number of tokens; each piece gets an equal part of it, so that a
    loss divided by it is right when averaged over pieces, however many tokens each has. A batch with such a total may
    be cut unevenly, even into pieces without rows; one without must split evenly, because its loss is a mean over rows.

    Raises UserError naming the batch size if it does not split evenly.
    """
    parts = pieces(micro_batches, ranks.size)
    if not (isinstance(batch, Mapping) and all(isinstance(value, Tensor) for value in batch.values())):
        if parts > 1:
            raise ValueError("only a mapping of tensors can be split into micro-batches")
        yield batch
        return
    uneven = any(tensor.ndim == 0 for tensor in batch.values())
    for name, tensor in batch.items():
        if tensor.ndim and tensor.shape[0] % parts and not uneven:
            raise UserError(
                f"{title}: a batch of {tensor.shape[0]} rows ({name}) does not split into {parts} micro-batches "
                f"({micro_batches} asked for, {ranks.size} processes); make {title}.batch_size a multiple of {parts}, "
                "or change processes in compute.yml"
            )
    for part in range(ranks.rank * (parts // ranks.size), (ranks.rank + 1) * (parts // ranks.size)):
        yield {name: _piece(tensor, part, parts).to(device) for name, tensor in batch.items()}


def _piece(tensor: Tensor, part: int, parts: int) -> Tensor:
    if tensor.ndim == 0:
        return tensor / parts
    rows = tensor.shape[0]
    return tensor[rows * part // parts : rows * (part + 1) // parts]


def tokens_of(batch: Batch) -> int:
    """Return a batch's token positions, for the speed shown: the sizes of its id tensors (int64, rows of positions)."""
    if not isinstance(batch, Mapping):
        return 0
    return sum(t.numel() for t in batch.values() if isinstance(t, Tensor) and t.dtype == torch.int64 and t.ndim > 1)
