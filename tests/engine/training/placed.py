"""A state that lies on the ranks as K2's would: stages over pp, experts over ep, momenta owned over dp."""

import torch

from engine.parallel.layout import Grid
from engine.parallel.placement import Placement, held

LAYERS = 4
SHAPES = {
    "model:layers.{}.attention": ((12, 8), torch.bfloat16),
    "model:layers.{}.experts": ((4, 6, 5), torch.bfloat16),
    "model:layers.{}.bias": ((4,), torch.float32),
    "optimizer:muon/layers.{}.attention": ((12, 8), torch.float32),
    "optimizer:muon/layers.{}.experts": ((4, 6, 5), torch.float32),
    "optimizer:adamw/layers.{}.norm/step": ((), torch.float32),
}


def whole(seed=0):
    """The tensors as one process would hold them all."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name.format(layer): torch.randn(shape, generator=generator).to(dtype)
        for layer in range(LAYERS)
        for name, (shape, dtype) in SHAPES.items()
    }


class PlacedState:
    """A rank's part of such a state: that of `tensors`, or nothing yet but zeros."""

    def __init__(self, grid: Grid, rank: int, tensors=None):
        self.grid, self.rank, self.step = grid, rank, 0
        self.held = {}
        for name, tensor in (tensors or {}).items():
            part = held(self.placement(name), tuple(tensor.shape), grid, rank)
            if part:
                ends = zip(part.offsets, part.sizes, strict=True)
                self.held[name] = tensor[tuple(slice(start, start + size) for start, size in ends)].clone()

    def tensors(self):
        return dict(self.held)

    def placement(self, name):
        """Layer l is on stage l mod pp; experts are cut over ep; dp rank l mod dp owns a layer's attention momentum."""
        layer = int(name.split("layers.")[1][0])
        stage = ("pp", layer % self.grid.pp)
        if "experts" in name:
            return Placement(("dp",), sharded=(("ep", 0),), owned=(stage,))
        if "muon" in name:
            return Placement(("ep",), owned=(stage, ("dp", layer % self.grid.dp)))
        return Placement(("dp", "ep"), owned=(stage,))

    def load(self, step, tensors, where):
        self.step = step
        self.held = {name: tensor.clone() for name, tensor in tensors.items()}
