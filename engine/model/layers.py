"""The small parts of a block: linear map, RMSNorm, SwiGLU.

Shapes: B batch, T positions, D model channels, F hidden channels of a feed-forward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_least_fp32(x: Tensor) -> Tensor:
    """Widen x to fp32, or leave it where it is wider: what must not be computed in half precision keeps fp64 whole."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Linear(nn.Linear):
    """A bias-free linear map whose weight is left for the model to fill: one keyed initialisation for all."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Do nothing: `K2Model` initialises by name and seed."""


class RMSNorm(nn.Module):
    """y = x / rms(x) · gain, in fp32 whatever the input's type (fp64 stays)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; shape and type are those of x."""
        return F.rms_norm(at_least_fp32(x), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


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
