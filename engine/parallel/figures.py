"""Figures of a model whose layers and experts lie on several ranks: each rank knows those of its own part."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.device import device
from engine.parallel import data
from engine.parallel.mesh import mesh
from kernels.host import Host, to_host


def of_whole_model(largest: float, clipped: int, idle: int) -> tuple[float, int, int]:
    """Return the largest logit, the number of clipped heads and that of idle experts over all parts of the model.

    The arguments are those of this rank's part. The ranks of a pipeline have other layers, those along ep other experts
    of the same layers.
    """
    place = mesh()
    if not place.cut:
        return largest, clipped, idle
    top, heads, experts = torch.tensor(largest, dtype=torch.float64), torch.tensor(clipped), torch.tensor(idle)
    if place.grid.ep > 1:
        data.sum_([experts], place.group("ep"))
    if place.grid.pp > 1:
        data.sum_([heads, experts], place.group("pp"))
        data.max_([top], place.group("pp"))
    return float(top), int(heads), int(experts)


def of_all_layers(own: Mapping[int, Tensor], layers: range, width: int) -> Sequence[Host]:
    """Return the `width` numbers of each of `layers` on the host; `own` are those of the layers that this rank has."""
    place = mesh()
    if place.grid.pp == 1:
        return to_host(*own.values())
    table = torch.zeros(len(layers), width, dtype=torch.float64, device=device())
    for layer, numbers in own.items():
        table[layer - layers.start] = numbers
    data.sum_([table], place.group("pp"))
    return list(to_host(table)[0])
