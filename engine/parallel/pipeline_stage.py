"""A stage of a pipeline: some consecutive layers of a rank's model, with the model's own weights.

Shapes: B rows, T positions, D model channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from engine.model.model import Block, K2Model
from engine.model.rope import rotation
from engine.training.numerics import autocast
from kernels.kept import micro_batch


class Stage(nn.Module):
    """The layers `layers` of `model`, which holds them; the first stage also embeds, and the last one normalises.

    Its blocks are the model's own: they share weights, gradients, largest logits and loads. A forward is in the type
    `dtype` (engine/training/numerics.py).
    """

    def __init__(self, model: K2Model, layers: range, *, first: bool, last: bool, dtype: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(model.layers[str(layer)] for layer in layers)
        self.embed = model.embed_tokens if first else None
        self.norm = model.norm if last else None
        self.frequencies_P, self.magnitude, self.dtype = model.frequencies_P, model.magnitude, dtype

    def forward(self, x: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Return what `K2Model.hidden` does: x is ids (B, T) in the first stage, else the stage before's (B, T, D)."""
        with autocast(self.dtype, x.device.type):
            turn = rotation(torch.arange(x.shape[1], device=x.device), self.frequencies_P, self.magnitude)
            x_BTD = x if self.embed is None else self.embed(x)
            with micro_batch(cast(Block, self.blocks[0]).memory):
                for block in self.blocks:
                    x_BTD = cast(Block, block)(x_BTD, turn, None, None, valid_BT)
            return x_BTD if self.norm is None else cast(Tensor, self.norm(x_BTD))
