"""The routed experts: each token goes through its k experts, in one grouped matrix product for all experts.

Shapes: N tokens, k experts per token, M = N·k rows sorted by expert, E experts, D model channels, F hidden channels.
"""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.choice import accepted, has_triton, on_gpu
from kernels.deferred import add_gradient, defers
from kernels.host import to_host
from kernels.kept import WEIGHTS, as_type, compresses, compressible, derived, remade
from kernels.precision import product_type, without_autocast

FEW = 64
"""Up to this many tokens, decoding multiplies by all experts at once, which is cheaper than many small products."""
GROUPED_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The types that `grouped_mm` accepts; fp64 is for proofs."""


def reference(x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> Tensor:
    """Specify the op expert by expert: y_n = Σ_e gate_ne · down_e(silu(gate_e x_n) · up_e x_n); (N, D)."""
    y_ND = torch.zeros_like(x_ND)
    for e in range(gate_up_EFD.shape[0]):
        tokens, slot = (chosen_Nk == e).nonzero(as_tuple=True)
        g, u = (x_ND[tokens] @ gate_up_EFD[e].T).chunk(2, dim=-1)
        y_ND = y_ND.index_add(0, tokens, (F.silu(g) * u) @ down_EDF[e].T * gate_Nk[tokens, slot, None])
    return y_ND


def grouped(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply rows of a (M, I), in groups that end at `ends_E`, by their own b (E, I, J): (M, J); or, for a (I, M) and
    b (M, J), form the groups' own products: (E, I, J).
    """
    if a.dtype in GROUPED_TYPES and _aligned(a) and _aligned(b):
        return F.grouped_mm(a, b, offs=ends_E)
    stops = to_host(ends_E)[0].tolist()
    runs = [slice(start, stop) for start, stop in zip([0, *stops], stops)]
    if b.dim() == 2:
        return torch.stack([a[:, run] @ b[run] for run in runs])
    return torch.cat([a[run] @ b[e] for e, run in enumerate(runs)])


def _aligned(matrix: Tensor) -> bool:
    """Return whether rows (columns of a transpose) are multiples of 16 bytes, as `grouped_mm` requires."""
    return max(matrix.stride()[-2:]) * matrix.element_size() % 16 == 0


def gather_sum(rows: Tensor, index_Nk: Tensor) -> Tensor:
    """Return Σ_k rows[index_nk], (N, D), in one pass and a fixed order. On a GPU rows need no gradient here."""
    if on_gpu(rows) and has_triton("combine"):
        from kernels.gpu import combine

        if accepted("combine", combine.refusal(rows)):
            return combine.gather_sum(rows, index_Nk)
    return F.embedding_bag(index_Nk, rows, mode="sum")


def counted(values_M: Tensor, size: int, weights_M: Tensor | None = None) -> Tensor:
    """Return how often each number below `size` occurs, (size,) int64: bincount, whose size a device need not ask.

    With `weights_M` (bool) only those that are true count.
    """
    weights = torch.ones_like(values_M) if weights_M is None else weights_M.to(values_M.dtype)
    return values_M.new_zeros(size).scatter_add_(0, values_M, weights)


def _swiglu(gate_up: Tensor) -> Tensor:
    g, u = gate_up.chunk(2, dim=-1)
    return F.silu(g).mul_(u)


def _swiglu_gradient(gate_up: Tensor, dy: Tensor) -> Tensor:
    """Return the gradient by [g, u] together, (…, 2F), from dy (…, F), which is overwritten."""
    g, u = gate_up.chunk(2, dim=-1)
    out = torch.empty_like(gate_up)
    dg, du = out.chunk(2, dim=-1)
    torch.mul(dy, F.silu(g), out=du)
    torch.ops.aten.silu_backward.grad_input(dy.mul_(u), g, grad_input=dg)
    return out


def _triton(gate_up_MF: Tensor) -> ModuleType | None:
    """Return the Triton kernels of SwiGLU with gates, None where torch's form computes it."""
    if on_gpu(gate_up_MF) and has_triton("swiglu"):
        from kernels.gpu import swiglu

        if accepted("swiglu", swiglu.refusal(gate_up_MF, gate_up_MF)):
            return swiglu
    return None


class _Experts(torch.autograd.Function):
    """Forward and backward written by hand. The gate scales an expert's hidden row, half as wide as its output;
    sums over k are gathers, so nothing is scattered and the order of every sum is fixed. On a GPU SwiGLU keeps its
    input alone, and the backward forms hidden rows again. `aside` has the weights whose gradients are set aside, and
    the type to which these are rounded (kernels/deferred.py).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        gate_Nk: Tensor,
        gate_up_EFD: Tensor,
        down_EDF: Tensor,
        order_M: Tensor,
        ends_E: Tensor,
        aside: tuple[Tensor, Tensor, torch.dtype] | None,
    ) -> Tensor:
        N, k = gate_Nk.shape
        ctx.aside = aside
        place_Nk = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(N * k, device=order_M.device)).view(N, k)
        gate_M1 = gate_Nk.reshape(-1)[order_M].to(x_ND.dtype)[:, None]
        x_MD = compressible(derived(x_ND[order_M // k], lambda x, order: x[order // k], x_ND, order_M))
        gu_MF = grouped(x_MD, gate_up_EFD.mT, ends_E)
        hidden_MF = None
        if (fused := _triton(gu_MF)) is not None:
            weighted_MF, stored = fused.weighted(gu_MF, gate_M1, store=compresses())
            gu_MF = compressible(gu_MF, stored)
        else:
            gu_MF = compressible(gu_MF)
            hidden_MF = remade("swiglu", _swiglu(gu_MF), _swiglu, gu_MF)
            weighted_MF = hidden_MF * gate_M1
        y_MD = grouped(weighted_MF, down_EDF.mT, ends_E)
        ctx.save_for_backward(x_MD, gu_MF, hidden_MF, gate_M1, gate_up_EFD, down_EDF, order_M, place_Nk, ends_E)
        return gather_sum(y_MD, place_Nk)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, gu_MF, hidden_MF, gate_M1, gate_up_EFD, down_EDF, order_M, place_Nk, ends_E = ctx.saved_tensors
        dy_MD = gradients[0][order_M // place_Nk.shape[1]]
        dweighted_MF = grouped(dy_MD, down_EDF, ends_E)
        weighted_MF = None
        if hidden_MF is None:
            fused = _triton(gu_MF)
            assert fused is not None
            dgu_MF, dgate_M, weighted_MF = fused.gradients(gu_MF, gate_M1, dweighted_MF)
        else:
            dgate_M = torch.linalg.vecdot(hidden_MF, dweighted_MF)
            dgu_MF = _swiglu_gradient(gu_MF, dweighted_MF.mul_(gate_M1))
        dx_ND = gather_sum(grouped(dgu_MF, gate_up_EFD, ends_E), place_Nk)
        dgate_Nk = dgate_M[place_Nk]

        def dgate_up_EFD() -> Tensor:
            return grouped(dgu_MF.mT, x_MD, ends_E)

        def ddown_EDF() -> Tensor:
            weighted = hidden_MF * gate_M1 if weighted_MF is None else weighted_MF
            return grouped(dy_MD.mT, weighted, ends_E)

        if ctx.aside is None:
            return dx_ND, dgate_Nk, dgate_up_EFD(), ddown_EDF(), None, None, None
        gate_up, down, rounded = ctx.aside
        add_gradient(gate_up, dgate_up_EFD, rounded)
        add_gradient(down, ddown_EDF, rounded)
        return dx_ND, dgate_Nk, None, None, None, None, None


def _every_expert(x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> Tensor:
    """Send every token through every expert, with a gate of zero if not chosen; tokens are columns."""
    E, N = gate_up_EFD.shape[0], x_ND.shape[0]
    gate_EN = gate_Nk.new_zeros(E, N).scatter_(0, chosen_Nk.T, gate_Nk.T).to(x_ND.dtype)
    g, u = torch.mm(gate_up_EFD.flatten(0, 1), x_ND.T).view(E, -1, N).chunk(2, dim=1)
    weighted_EFN = F.silu(g).mul_(u).mul_(gate_EN[:, None])
    return torch.bmm(down_EDF, weighted_EFN).sum(0).T


@without_autocast
def experts(x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> Tensor:
    """Apply the routed experts by sorting tokens by expert, with one grouped product each way; (N, D).

    `gate_up_EFD` (E, 2F, D) holds gate then up rows, `down_EDF` is (E, D, F). `grouped_mm` does not follow autocast:
    products are computed in x's type.
    """
    E, few = gate_up_EFD.shape[0], x_ND.shape[0] <= FEW
    dtype = product_type(x_ND.dtype, x_ND.device.type)
    narrow = (as_type(weight, x_ND.dtype, WEIGHTS) for weight in (gate_up_EFD, down_EDF))
    x, gate_up, down = as_type(x_ND, dtype), *(as_type(weight, dtype, WEIGHTS) for weight in narrow)
    if few and chosen_Nk.numel() >= E and not torch.is_grad_enabled():
        return _every_expert(x, chosen_Nk, gate_Nk, gate_up, down).to(x_ND.dtype)
    flat = chosen_Nk.reshape(-1)
    order_M = flat.argsort(stable=True)
    ends_E = counted(flat, E).cumsum(0).to(torch.int32)
    aside = None
    if defers(x, gate_up_EFD, down_EDF):
        aside, gate_up, down = (gate_up_EFD, down_EDF, x_ND.dtype), gate_up.detach(), down.detach()
    y: Tensor = _Experts.apply(x, gate_Nk, gate_up, down, order_M, ends_E, aside)
    return y.to(x_ND.dtype)
