"""A step's micro-batches through a pipeline: each rank runs the layers that it holds, in the order of a schedule.

A micro-batch here is one reading of an objective (engine/training/readings.py): a step has those of all its batches'
micro-batches, padded to one shape. The last stage takes the losses; what they are, all ranks of the pipeline learn.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.layout import stages
from engine.parallel.mesh import mesh
from engine.parallel.pipeline_runtime import execute
from engine.parallel.pipeline_stage import Stage
from engine.parallel.pipeline_table import Action, Schedule, forward_table, table
from engine.parallel.pipeline_time import complete
from engine.training.numerics import autocast
from engine.training.readings import Figures, Reading, added, aligned, numbers
from kernels.host import to_host

T = TypeVar("T")


def backward(
    model: K2Model, micro_batches: Sequence[Sequence[Reading]], dtype: str, parts: int
) -> list[dict[str, float]]:
    """Add the gradients of a mean loss over `parts` micro-batches, of which this rank's pipeline has some.

    `model` is this rank's part of the model; each of `micro_batches` is all readings of one, on its device, alike on
    all ranks of the pipeline. Returns the figures of each micro-batch on all of these ranks, `loss` first.
    """
    taken = _through(model, [reading for of in micro_batches for reading in of], dtype, mesh().layout.schedule, parts)
    figures: list[Mapping[str, float | Tensor]] = []
    for of in micro_batches if taken else ():
        loss, own = added([taken.pop(0) for _ in of])
        figures.append({"loss": loss} | own)
    return _from_last(numbers(figures))


@torch.no_grad()
def read(model: K2Model, readings: Sequence[Reading], dtype: str) -> list[Tensor]:
    """Return on all ranks of the pipeline, on the CPU, what the readings' `loss` gives, without gradients.

    Nothing is recorded for the optimizer: neither largest logits nor loads.
    """
    if not readings:
        return []
    taken = _through(model, readings, dtype, None, 1)
    return [torch.from_numpy(values) for values in _from_last(to_host(*(values for values, _ in taken)))]


def _through(
    model: K2Model, readings: Sequence[Reading], dtype: str, schedule: Schedule | None, parts: int
) -> list[tuple[Tensor, Figures]]:
    """Run this rank's stages; return each reading's part of the loss and its figures, on the last rank alone."""
    place = mesh()
    pp, vpp, rank = place.grid.pp, place.layout.vpp, place.coordinates()["pp"]
    cuts = stages(model.config.num_hidden_layers, place.layout)
    last = len(cuts) - 1
    own = {
        number: Stage(model, cuts[number], first=number == 0, last=number == last, dtype=dtype)
        for number in range(rank, len(cuts), pp)
    }
    taken: list[tuple[Tensor, Figures]] = []
    losses = [partial(_loss, model, reading, dtype, parts, taken) for reading in readings]
    group = place.group("pp")
    assert group is not None, "a pipeline has several ranks"
    gain = model.blocks[0].input_layernorm.weight
    execute(lists(schedule, pp, vpp, len(readings))[rank], own, len(cuts), aligned(readings), losses, gain, group)
    return taken


def _loss(
    model: K2Model,
    reading: Reading,
    dtype: str,
    parts: int,
    taken: list[tuple[Tensor, Figures]],
    hidden_BTD: Tensor,
) -> Tensor:
    """Return a reading's loss in the mean over all `parts` micro-batches, and keep what it was."""
    rows, width = reading.ids_BT.shape
    with autocast(dtype, hidden_BTD.device.type):
        loss, figures = reading.loss(model.lm_head, hidden_BTD[:rows, :width])
    taken.append((loss.detach(), {name: v.detach() if isinstance(v, Tensor) else v for name, v in figures.items()}))
    return loss / parts


@lru_cache(maxsize=8)
def lists(schedule: Schedule | None, pp: int, vpp: int, count: int) -> list[list[Action]]:
    """Return what each rank does for so many readings, with its messages; without a schedule only forwards."""
    return complete(table(schedule, pp, vpp, count) if schedule else forward_table(pp, vpp, count))


def _from_last(values: T) -> T:
    """Return the last rank's values, small and picklable, on all ranks of the pipeline."""
    group = mesh().group("pp")
    box = [values]
    data.together(lambda: dist.broadcast_object_list(box, group=group, group_src=mesh().grid.pp - 1))
    return box[0]
