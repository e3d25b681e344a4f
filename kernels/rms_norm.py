"""RMSNorm in one op, because on a CPU its parts under autograd take four times as many passes over memory.

Shapes: … any leading axes, D channels, N rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.choice import accepted, has_triton, on_gpu
from kernels.kept import remade
from kernels.precision import wide, without_autocast


def reference(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Specify the op: y = x / √(mean x² + eps) · gain, in fp32 or better; type of x."""
    x_wide = x.to(wide(x.dtype))
    y: Tensor = x_wide * torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps) * gain_D
    return y.to(x.dtype)


def _normalised(x: Tensor, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y in x's type, and 1 / √(mean x² + eps) of each row, (N, 1)."""
    x_ND = x.reshape(-1, x.shape[-1]).to(wide(x.dtype))
    r_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x_ND * r_N1).mul_(gain_D).to(x.dtype).view(x.shape), r_N1


class _RMSNorm(torch.autograd.Function):
    """Keeps x and one number per row; dx = r·(gain·dy) - x·r³·mean(x·gain·dy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        y, r_N1 = _normalised(x, gain_D, eps)
        ctx.save_for_backward(x, gain_D, r_N1)
        return y

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain_D, r_N1 = ctx.saved_tensors
        x_ND, dy_ND = (t.reshape(-1, x.shape[-1]).to(r_N1.dtype) for t in (x, gradients[0]))
        product_ND = x_ND * dy_ND
        dgain_D = torch.mv(product_ND.T, r_N1[:, 0])
        share_N1 = torch.mv(product_ND, gain_D.to(r_N1.dtype))[:, None] * r_N1.pow(3) / -x.shape[-1]
        dx_ND = torch.mul(dy_ND, r_N1, out=product_ND).mul_(gain_D).addcmul_(x_ND, share_N1)
        return dx_ND.to(x.dtype).view(x.shape), dgain_D.to(gain_D.dtype), None


def rms_norm(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Normalise the last axis; the result has x's shape and type."""
    if on_gpu(x) and has_triton("rms_norm"):
        from kernels.gpu import rms_norm as triton

        if accepted("rms_norm", triton.refusal(x, gain_D)):
            normal = triton.rms_norm(x, gain_D, eps)
            return remade("norm", normal, lambda x, gain_D: triton.normalised(x, gain_D, eps)[0], x, gain_D)
    if torch.is_grad_enabled():
        y: Tensor = _RMSNorm.apply(x, gain_D, eps)
        return remade("norm", y, lambda x, gain_D: _normalised(x, gain_D, eps)[0], x, gain_D)
    return F.rms_norm(x.to(wide(x.dtype)), (x.shape[-1],), gain_D.to(wide(x.dtype)), eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + residual, of equal shapes, and its normalised rows: on a GPU in one pass."""
    if on_gpu(x) and has_triton("rms_norm"):
        from kernels.gpu import rms_norm as triton

        if accepted("rms_norm", triton.refusal(x, gain_D, residual)):
            total, normal = triton.add_rms_norm(x, residual, gain_D, eps)
            return total, remade("norm", normal, lambda x, gain_D: triton.normalised(x, gain_D, eps)[0], total, gain_D)
    total = x + residual
    return total, rms_norm(total, gain_D, eps)
