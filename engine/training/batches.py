"""What a step trains on: a source gives each rank its own rows, which are cut into micro-batches here.

Neither the number of ranks nor that of micro-batches changes what a step sees.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import UserError
from engine.parallel.data import Ranks

Batch = Mapping[str, Tensor]
"""Everything that a loss reads besides the model, so a batch may be pickled and its loss taken anywhere.

A tensor has a row for each example, turn or response. A 0-d tensor is a total over the whole step, such as a number of
tokens: every rank has it, whichever rows are its own.
"""


class Source(Protocol):
    """Gives the rows of each step, of which a rank reads no other's."""

    @property
    def rows_per_step(self) -> int | None:
        """The rows of a step whose loss is a mean over rows, so that ranks must get equally many; None: any number."""

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return the rows of a step (from 0) that are this rank's: over all ranks each of the step's rows once."""


def own(rows: int, ranks: Ranks) -> range:
    """Return which of a step's rows are this rank's: consecutive ones, as many as others have or one more or less."""
    return range(rows * ranks.rank // ranks.size, rows * (ranks.rank + 1) // ranks.size)


def pieces(micro_batches: int, size: int) -> int:
    """Return how many pieces a step's batch is cut into: at least `micro_batches`, and equally many per rank."""
    return -(-micro_batches // size) * size


def require_even(source: Source, micro_batches: int, ranks: Ranks, title: str) -> None:
    """Raise UserError naming the batch size if the source's rows must split evenly and do not."""
    parts, rows = pieces(micro_batches, ranks.size), source.rows_per_step
    if rows is not None and rows % parts:
        raise UserError(
            f"{title}: a batch of {rows} rows does not split into {parts} micro-batches ({micro_batches} asked for, "
            f"{ranks.size} processes); make {title}.batch_size a multiple of {parts}, or change processes in "
            "compute.yml"
        )


def share(batch: Batch, parts: int, ranks: Ranks, device: torch.device) -> Iterator[Batch]:
    """Yield a rank's micro-batches on `device`: its rows in consecutive pieces, of which the step has `parts`.

    Each piece gets an equal part of a total, so that a loss divided by it is right when averaged over pieces, however
    many rows each has. Tensors of different kinds of rows (the turns and responses of RL) cannot be cut: such a source
    is for one micro-batch per rank.
    """
    own_parts = parts // ranks.size
    for part in range(own_parts):
        yield {name: _piece(tensor, part, own_parts, parts).to(device) for name, tensor in batch.items()}


def _piece(tensor: Tensor, part: int, own_parts: int, parts: int) -> Tensor:
    if tensor.ndim == 0:
        return tensor / parts
    rows = tensor.shape[0]
    return tensor[rows * part // own_parts : rows * (part + 1) // own_parts]


def tokens_of(batch: Batch) -> int:
    """Return a batch's token positions, for the speed shown: the sizes of its id tensors (int64, rows of positions)."""
    return sum(tensor.numel() for tensor in batch.values() if tensor.dtype == torch.int64 and tensor.ndim > 1)
