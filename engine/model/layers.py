"""The small parts of a block: linear map, RMSNorm, SwiGLU.

Shapes: B batch, T positions, D model channels, F hidden channels of a feed-forward.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from kernels.kept import compressible
from kernels.linear import linear
from kernels.precision import wide
from kernels.rms_norm import add_rms_norm, rms_norm
from kernels.swiglu import swiglu


class WideBuffers(nn.Module):
    """A module whose own buffers stay in fp32 or better when its weights become narrower.

    Rotary frequencies, router biases and largest logits need more precision than bf16: angles grow with the position,
    biases move by 1e-3, and clipping is exact.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert the module as `.to`, `.half` and similar calls request."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.is_floating_point() and new.dtype != wide(new.dtype):
                self._buffers[name] = old.to(device=new.device, dtype=wide(new.dtype))
        return self


class Linear(nn.Linear):
    """A bias-free linear map whose weight the model fills, so that all weights share one keyed initialisation."""

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

    def added(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + residual, and that normalised."""
        return add_rms_norm(x, residual, self.weight, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)): the dense feed-forward and the shared expert."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden)
        self.up_proj = Linear(width, hidden)
        self.down_proj = Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        g, u = compressible(self.gate_proj(x_BTD)), compressible(self.up_proj(x_BTD))
        y: Tensor = self.down_proj(swiglu(g, u))
        return y
