"""The linear map of all layers: products in the type that the processor multiplies, under autocast and without."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.deferred import add_gradient, defers
from kernels.kept import WEIGHTS, as_type
from kernels.precision import operand_type, product_type


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x Wᵀ as `F.linear` does, autocast included, at the speed that the processor allows."""
    x, device = as_type(x, operand_type(x)), x.device.type
    aside = defers(x, weight)
    if product_type(x.dtype, device) == x.dtype and not aside:
        return F.linear(x, weight)  # autocast has one narrower copy of a weight for all its products
    with torch.autocast(device, enabled=False):
        return _set_aside(x, weight) if aside else linear_in_own_type(x, weight)


def linear_in_own_type(x: Tensor, weight: Tensor) -> Tensor:
    """Return what `linear` does under an autocast to x's type, where none is on, as in a backward."""
    product = product_type(x.dtype, x.device.type)
    return F.linear(as_type(x, product), _as_operand(weight, x.dtype, product)).to(x.dtype)


def _as_operand(weight: Tensor, operand: torch.dtype, product: torch.dtype) -> Tensor:
    return as_type(as_type(weight, operand, WEIGHTS), product, WEIGHTS)


def _set_aside(x: Tensor, weight: Tensor) -> Tensor:
    """Return what `linear_in_own_type` does; the backward sets the weight's gradient aside (kernels/deferred.py)."""
    product = product_type(x.dtype, x.device.type)
    y: Tensor = _Deferred.apply(as_type(x, product), weight, x.dtype)
    return y.to(x.dtype)


class _Deferred(torch.autograd.Function):
    """x Wᵀ whose weight's gradient is set aside: the products of F.linear's backward, to the bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, operand: torch.dtype) -> Tensor:
        ctx.leaf, ctx.operand = leaf, operand
        ctx.save_for_backward(x)
        return F.linear(x, leaf.to(operand).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        leaf, operand = ctx.leaf, ctx.operand
        with torch.autocast(x.device.type, enabled=False):
            dy, rows = (of.reshape(-1, of.shape[-1]) for of in (gradients[0], x))
            add_gradient(leaf, lambda: dy.T @ rows, operand)
            return (dy @ leaf.detach().to(operand).to(x.dtype)).view_as(x), None, None
