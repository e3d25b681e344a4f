"""An objective as readings of the model, which a pipeline can carry out: rows to read, and the loss of what comes out.

Shapes: B rows, T positions, D model channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.parallel.mesh import mesh
from engine.training.batches import Batch
from engine.training.numerics import autocast
from kernels.host import to_host

Figures = Mapping[str, float | Tensor]
Loss = Callable[[Linear, Tensor], tuple[Tensor, Figures]]


@dataclass(frozen=True)
class Reading:
    """Rows that the model reads once, and the part of a micro-batch's loss that depends on them.

    `ids_BT` are read; those that are not `valid_BT` (None: all are) are padding. `loss(head, hidden_BTD)` returns the
    part, and figures, from the model's head and its output. It must have a gradient even where B or T is 0.
    """

    ids_BT: Tensor
    valid_BT: Tensor | None
    loss: Loss


def with_figures(reading: Reading, figures: Figures) -> Reading:
    """Return a reading with further figures, before its own."""

    def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
        value, own = reading.loss(head, hidden_BTD)
        return value, {**figures, **own}

    return replace(reading, loss=loss)


@runtime_checkable
class Readable(Protocol):
    """An objective (engine/training/step.py) that a pipeline can train on as well as a whole model."""

    def __call__(self, model: K2Model, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss of a micro-batch, and figures, from a whole model."""
        ...

    def readings(self, batch: Batch) -> list[Reading]:
        """Return the readings whose losses add up to that of a micro-batch, as many whatever its rows are.

        A figure of several readings is the sum of theirs.
        """
        ...


def added(parts: Sequence[tuple[Tensor, Figures]]) -> tuple[Tensor, dict[str, float | Tensor]]:
    """Return the sum of readings' losses, and of their figures by name."""
    figures: dict[str, float | Tensor] = {}
    for name, value in (pair for _, of in parts for pair in of.items()):
        figures[name] = figures[name] + value if name in figures else value
    loss = parts[0][0]
    for part, _ in parts[1:]:
        loss = loss + part
    return loss, figures


@torch.no_grad()
def read(model: K2Model, readings: Sequence[Reading], dtype: str) -> list[Tensor]:
    """Return what the readings' `loss` gives, without gradients: on the model's device, on all ranks of a pipeline.

    The forwards are in the model's own mode and in the type `dtype`; ranks with parts of one model call it together.
    """
    if mesh().grid.pp > 1:
        from engine.parallel import pipeline  # torch's takes seconds to import

        return [values.to(model.device) for values in pipeline.read(model, readings, dtype)]
    values = []
    for reading in readings:
        with autocast(dtype, model.device.type):
            hidden_BTD = model.hidden(reading.ids_BT, valid_BT=reading.valid_BT)
            values.append(reading.loss(model.lm_head, hidden_BTD)[0])
    return values


def numbers(figures: Sequence[Figures]) -> list[dict[str, float]]:
    """Return figures as numbers, after waiting once for the device."""
    values = iter(to_host(*(value for of in figures for value in of.values() if isinstance(value, Tensor))))
    return [
        {name: float(next(values) if isinstance(value, Tensor) else value) for name, value in of.items()}
        for of in figures
    ]


def aligned(readings: Sequence[Reading]) -> list[tuple[Tensor, Tensor | None]]:
    """Return the ids and valid tokens of readings, all padded to one shape at the end of rows and after the last row.

    Padding is not valid. Where nothing is padded, masks stay as they are, and None for all of them is None.
    """
    rows, width = (max(1, *(reading.ids_BT.shape[axis] for reading in readings)) for axis in (0, 1))
    whole = all(tuple(reading.ids_BT.shape) == (rows, width) for reading in readings)
    return [
        (reading.ids_BT, reading.valid_BT)
        if whole
        else (_padded(reading.ids_BT, rows, width), _mask(reading, rows, width))
        for reading in readings
    ]


def _padded(values_BT: Tensor, rows: int, width: int) -> Tensor:
    out = values_BT.new_zeros(rows, width)
    out[: values_BT.shape[0], : values_BT.shape[1]] = values_BT
    return out


def _mask(reading: Reading, rows: int, width: int) -> Tensor:
    valid = torch.ones_like(reading.ids_BT, dtype=torch.bool) if reading.valid_BT is None else reading.valid_BT
    return _padded(valid, rows, width)
