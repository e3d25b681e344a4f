"""The routed experts: each token through its k experts, one grouped matrix product for all experts.

Shapes: N tokens, k experts a token, E experts, D model channels, F hidden channels of an expert.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> Tensor:
    """The specification, expert by expert: y_n = Σ_e gate_ne · down_e(silu(gate_e x_n) · up_e x_n); (N, D)."""
    y_ND = torch.zeros_like(x_ND)
    for e in range(gate_up_EFD.shape[0]):
        tokens, slot = (chosen_Nk == e).nonzero(as_tuple=True)
        g, u = (x_ND[tokens] @ gate_up_EFD[e].T).chunk(2, dim=-1)
        y_ND = y_ND.index_add(0, tokens, (F.silu(g) * u) @ down_EDF[e].T * gate_Nk[tokens, slot, None])
    return y_ND


class _Dispatch(torch.autograd.Function):
    """Copy each token to the k places where its experts want it; the gradient is gathered back, never scattered.

    Autograd's own backward would be an indexed add: slower, and on some devices in no fixed order.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order: Tensor, place: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.k = k
        return x_ND[order // k]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (place,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient[place].view(-1, ctx.k, gradient.shape[-1]).sum(1), None, None, None


class _Collect(torch.autograd.Function):
    """Undo the sorting by expert; the gradient is sorted again."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return y[place]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return gradients[0][order], None, None


def experts(
    x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor
) -> tuple[Tensor, Tensor]:
    """Routed experts by sorting tokens to their experts and one grouped product each way.

    `gate_up_EFD` (E, 2F, D) holds gate then up rows, `down_EDF` (E, D, F). Returns y (N, D) and the number of
    tokens each expert received, (E,) int64. `grouped_mm` does not follow autocast: all operands share x's type.
    """
    E, k = gate_up_EFD.shape[0], chosen_Nk.shape[1]
    flat = chosen_Nk.reshape(-1)
    order = flat.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    load_E = torch.bincount(flat, minlength=E)
    ends = load_E.cumsum(0).to(torch.int32)
    gate_up, down = gate_up_EFD.to(x_ND.dtype), down_EDF.to(x_ND.dtype)
    g, u = F.grouped_mm(_Dispatch.apply(x_ND, order, place, k), gate_up.mT, offs=ends).chunk(2, dim=-1)
    y = F.grouped_mm(F.silu(g) * u, down.mT, offs=ends)
    back = _Collect.apply(y, order, place).view(-1, k, x_ND.shape[-1])
    return (back * gate_Nk[..., None].to(back.dtype)).sum(1), load_E
