"""SwiGLU, silu(g)·u: the dense feed-forward's and the shared expert's; the routed experts' is in kernels/experts.py.

Shapes: … any leading axes, F hidden channels, M rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.choice import accepted, has_triton, on_gpu
from kernels.kept import remade


def reference(g: Tensor, u: Tensor, gate_M1: Tensor | None = None) -> Tensor:
    """Specify the op: silu(g)·u, times a routed row's gate if there are gates."""
    y = g * torch.sigmoid(g) * u
    return y if gate_M1 is None else y * gate_M1


def swiglu(g: Tensor, u: Tensor) -> Tensor:
    """Return silu(g)·u of equal shapes (…, F) and types."""
    if on_gpu(g) and has_triton("swiglu"):
        from kernels.gpu import swiglu as triton

        if accepted("swiglu", triton.refusal(g, u)):
            return remade("swiglu", triton.swiglu(g, u), triton.activated, g, u)
    active = remade("swiglu", F.silu(g), F.silu, g)
    return remade("swiglu", active * u, torch.mul, active, u)
