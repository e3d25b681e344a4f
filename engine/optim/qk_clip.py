"""QK-Clip: shrink the query and key weights of a head whose logits grew past τ (arXiv 2507.20534, Algorithm 1).

Shapes: H heads.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.optim.layout import ClippedAttention
from kernels.host import to_host
from kernels.precision import wide

ClipPer = Literal["head", "layer"]


def clip_factors(max_logit_H: Tensor, tau: float) -> Tensor:
    """Return γ = τ/S where S > τ, else exactly 1, per head; a negative or -inf maximum (no logit seen) gives 1.

    The comparison, not min(1, τ/S), decides: a small negative S would make the ratio negative and its root NaN.
    """
    return torch.where(max_logit_H > tau, tau / max_logit_H, torch.ones_like(max_logit_H))


def read_maxima(attentions: Sequence[ClippedAttention], names: Sequence[str]) -> list[list[float]]:
    """Return each layer's maxima by head, in one transfer from the device. Changes nothing.

    Raises UserError with the layer's name, of `names`, and the head if a maximum is NaN or +inf.
    """
    if not attentions:
        return []
    (values,) = to_host(torch.cat([attention.max_logit_H for attention in attentions]))
    together = iter(values.tolist())
    maxima = [[next(together) for _ in range(attention.max_logit_H.numel())] for attention in attentions]
    for name, heads in zip(names, maxima, strict=True):
        for head, largest in enumerate(heads):
            if not largest < math.inf:
                raise UserError(
                    f"{name}, head {head}: the largest attention logit is {largest}; "
                    "training has diverged: lower the learning rate or tau"
                )
    return maxima


@torch.no_grad()
def qk_clip_(
    attention: ClippedAttention,
    tau: float,
    per: ClipPer = "head",
    master_of: Callable[[nn.Parameter], Tensor] = lambda weight: weight,
    rows_of: Callable[[nn.Parameter], range] | None = None,
) -> Tensor:
    """Scale the rows of the heads over `tau` in place; return the number of heads scaled, a 0-d tensor.

    `per` "layer" gives every head the γ of the layer's largest maximum. Rows that the layout does not name (values, a
    shared rotary key) and heads with γ = 1 keep their bits. `master_of` returns the tensor to update for a weight, and
    `rows_of` which rows of the weight that tensor has, if not all.
    """
    max_logit_H = attention.max_logit_H.to(wide(attention.max_logit_H.dtype))
    if per == "layer":
        max_logit_H = max_logit_H.max().expand_as(max_logit_H)
    gamma_H = clip_factors(max_logit_H, tau)
    for rows in attention.clip_rows():
        factor_H = gamma_H.pow(rows.power)  # 1 to any power is exactly 1
        for parameter in (rows.weight, rows.bias):
            if parameter is not None and rows_of is None:
                _scale_(rows.of(master_of(parameter).data, gamma_H.numel()), factor_H)
            elif parameter is not None and rows_of is not None:
                own, part = master_of(parameter).data, rows_of(parameter)
                factor_N = torch.ones(parameter.shape[0], dtype=factor_H.dtype, device=own.device)
                _scale_(rows.of(factor_N, gamma_H.numel()), factor_H)
                _scale_(own, factor_N[part.start : part.stop])
    return (gamma_H < 1).sum()


def _scale_(tensor: Tensor, factor_N: Tensor) -> None:
    """Multiply each part along axis 0 by its factor."""
    tensor *= factor_N.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
