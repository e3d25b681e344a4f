"""The head and its loss in one op: next-token cross-entropy without holding all logits at once.

Shapes: N tokens, D model channels, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.precision import operand_type, product_type, wide

CHUNK = 256


def reference(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Specify the op: the mean of -log softmax(x Wᵀ)[target], in nats."""
    logits = x_ND @ weight_VD.T
    return F.cross_entropy(logits.to(wide(logits.dtype)), targets_N)


def _chunk(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of a chunk, (n,), and the softmax of its logits, (n, V), in fp32 or better.

    One exponential per logit: the largest logit's share of the softmax gives the log-sum-exp.
    """
    logits = x_ND @ weight_VD.T
    logits = logits.to(wide(logits.dtype))
    at_target = logits.gather(-1, targets_N[:, None])[:, 0]
    largest = logits.amax(-1)
    share = logits.softmax(-1)
    return largest - share.amax(-1).log() - at_target, share


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward, chunk by chunk, so that logits exist only as long as their chunk."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        x, weight, n = x_ND.to(dtype), weight_VD.to(dtype), x_ND.shape[0]
        total = torch.zeros((), dtype=wide(dtype), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight_VD, dtype=wide(dtype))
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            losses, gradient = _chunk(x[part], weight, targets_N[part])
            total += losses.sum()
            gradient.scatter_add_(1, targets_N[part, None], torch.full_like(gradient[:, :1], -1.0))
            gradient = gradient.to(dtype)
            dx[part] = gradient @ weight
            dweight.addmm_(gradient.T, x[part]) if dweight.dtype == dtype else dweight.add_(gradient.T @ x[part])
        ctx.save_for_backward(dx.to(x_ND.dtype), dweight.to(weight_VD.dtype))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx, dweight = ctx.saved_tensors
        scale = gradients[0] / dx.shape[0]
        return dx * scale, dweight * scale, None, None


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return the mean cross-entropy of the head's logits against `targets_N` (N,) int64, in nats.

    Products are computed in autocast's type if it is on, else in x's; softmax and sums in fp32. Memory holds 256 rows
    of logits at a time, which stay in the processor's cache.
    """
    device = x_ND.device.type
    operand = operand_type(x_ND)
    dtype = product_type(operand, device)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad):
            loss: Tensor = _LinearCrossEntropy.apply(x_ND.to(operand), weight_VD.to(operand), targets_N, dtype)
            return loss
        x, weight = (t.to(operand).to(dtype) for t in (x_ND, weight_VD))
        parts = zip(x.split(CHUNK), targets_N.split(CHUNK), strict=True)
        return torch.cat([_chunk(xs, weight, ts)[0] for xs, ts in parts]).sum() / x_ND.shape[0]
