"""The small parts of a block: linear map, RMSNorm, SwiGLU.

Shapes: B batch, T positions, D model channels, F hidden channels of a feed-forward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.precision import linear
from kernels.rms_norm import rms_norm


class Linear(nn.Linear):
    """A bias-free linear map whose weight is left for the model to fill: one keyed initialisation for all."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Do nothing: `K2Model` initialises by name and seed."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs)."""
        return linear(x, self.weight)


class RMSNorm(nn.Module):
    """y = x / rms(x) · gain, in fp32 or better whatever the input's type."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; shape and type are those of x."""
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)): the dense feed-forward and the shared expert."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden)
        self.up_proj = Linear(width, hidden)
        self.down_proj = Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y
