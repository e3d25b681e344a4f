"""SwiGLU as Triton kernels, also with the gate of a routed expert's row, and with its input stored in FP8.

Forward and backward are one pass each. Nothing but the input is kept for the backward, which forms the output again,
since the gradient of the next product's weight needs it.

Shapes: M rows, F hidden channels; g and u (M, F) may be the halves of one (M, 2F).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.gpu.fp8_rows import quantised
from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCKS = 8
"""Blocks of 128 channels of a row that a program has at a time."""


@triton.jit
def _forward(
    G, U, GATE, OUT, CODES, SCALES, g_row, u_row, F,
    GATED: tl.constexpr, STORED: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    block, channel = tl.arange(0, BLOCKS), tl.arange(0, 128)
    gate = 1.0
    if GATED:
        gate = tl.load(GATE + row).to(tl.float32)
    for first in range(0, F, BLOCKS * 128):
        at = first + block[:, None] * 128 + channel[None, :]
        g = tl.load(G + row * g_row + at, at < F, 0.0).to(tl.float32)
        u = tl.load(U + row * u_row + at, at < F, 0.0).to(tl.float32)
        tl.store(OUT + row * F + at, (g * tl.sigmoid(g) * u * gate).to(OUT.dtype.element_ty), at < F)
        if STORED:
            half, blocks = row * 2 * F, first // 128 + block
            scales = SCALES + row * 2 * (F // 128) + blocks
            codes, scale = quantised(g, False)
            tl.store(CODES + half + at, codes.to(CODES.dtype.element_ty), at < F)
            tl.store(scales, scale, blocks < F // 128)
            codes, scale = quantised(u, False)
            tl.store(CODES + half + F + at, codes.to(CODES.dtype.element_ty), at < F)
            tl.store(scales + F // 128, scale, blocks < F // 128)


@triton.jit
def _backward(
    G, U, GATE, DY, DG, DU, DGATE, OUT, g_row, u_row, dg_row, du_row, F,
    GATED: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    block, channel = tl.arange(0, BLOCKS), tl.arange(0, 128)
    gate, dgate = 1.0, 0.0
    if GATED:
        gate = tl.load(GATE + row).to(tl.float32)
    for first in range(0, F, BLOCKS * 128):
        at = first + block[:, None] * 128 + channel[None, :]
        g = tl.load(G + row * g_row + at, at < F, 0.0).to(tl.float32)
        u = tl.load(U + row * u_row + at, at < F, 0.0).to(tl.float32)
        dy = tl.load(DY + row * F + at, at < F, 0.0).to(tl.float32)
        sigmoid = tl.sigmoid(g)
        active = g * sigmoid
        if GATED:
            dgate += tl.sum(tl.sum(active * u * dy, 1), 0)
            dy = dy * gate
            tl.store(OUT + row * F + at, (active * u * gate).to(OUT.dtype.element_ty), at < F)
        dg = dy * u * (sigmoid + active * (1.0 - sigmoid))
        tl.store(DG + row * dg_row + at, dg.to(DG.dtype.element_ty), at < F)
        tl.store(DU + row * du_row + at, (dy * active).to(DU.dtype.element_ty), at < F)
    if GATED:
        tl.store(DGATE + row, tl.cast(dgate, DGATE.dtype.element_ty))


def _activated(
    g_MF: Tensor, u_MF: Tensor, gate_M1: Tensor | None, stored: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return silu(g)·u, times the rows' gates if there are any; write codes and scales of [g, u] to `stored`."""
    M, F = g_MF.shape
    out = torch.empty(M, F, dtype=g_MF.dtype, device=g_MF.device)
    codes, scales = stored or (None, None)
    launch(
        _forward, (M,), g_MF, u_MF, gate_M1, out, codes, scales, g_MF.stride(0), u_MF.stride(0), F,
        GATED=gate_M1 is not None, STORED=stored is not None, BLOCKS=BLOCKS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def _differentiated(
    g_MF: Tensor, u_MF: Tensor, gate_M1: Tensor | None, dy_MF: Tensor, dg_MF: Tensor, du_MF: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients by g and u; with gates, return the gates' gradient (M,) and the forward's result."""
    M, F = g_MF.shape
    dgate, out = None, None
    if gate_M1 is not None:
        dgate = torch.empty(M, dtype=gate_M1.dtype, device=g_MF.device)
        out = torch.empty(M, F, dtype=g_MF.dtype, device=g_MF.device)
    launch(
        _backward, (M,), g_MF, u_MF, gate_M1, dy_MF.contiguous(), dg_MF, du_MF, dgate, out,
        g_MF.stride(0), u_MF.stride(0), dg_MF.stride(0), du_MF.stride(0), F,
        GATED=gate_M1 is not None, BLOCKS=BLOCKS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return dgate, out


def weighted(gate_up_MF: Tensor, gate_M1: Tensor, store: bool = False) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return silu(g)·u·gate of rows [g, u] (M, 2F), and if `store` the rows in FP8 as kernels.fp8_rows keeps them.

    A width F that is no multiple of 128 has blocks across its halves: such rows are not stored (None).
    """
    M, width = gate_up_MF.shape
    stored = None
    if store and width % 256 == 0:
        codes = torch.empty(M, width, dtype=torch.float8_e4m3fn, device=gate_up_MF.device)
        stored = codes, torch.empty(M, width // 128, dtype=torch.float32, device=gate_up_MF.device)
    g_MF, u_MF = gate_up_MF.chunk(2, -1)
    return _activated(g_MF, u_MF, gate_M1, stored), stored


def gradients(gate_up_MF: Tensor, gate_M1: Tensor, dweighted_MF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by [g, u] (M, 2F) and by the gates (M,), and the forward's result (M, F)."""
    dgate_up = torch.empty_like(gate_up_MF)
    (g_MF, u_MF), (dg_MF, du_MF) = (rows.chunk(2, -1) for rows in (gate_up_MF, dgate_up))
    dgate, out = _differentiated(g_MF, u_MF, gate_M1, dweighted_MF, dg_MF, du_MF)
    assert dgate is not None
    assert out is not None
    return dgate_up, dgate, out


def activated(g: Tensor, u: Tensor) -> Tensor:
    """Return silu(g)·u of equal shapes, without gradient."""
    return _activated(g.reshape(-1, g.shape[-1]), u.reshape(-1, u.shape[-1]), None).view(g.shape)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(g, u)
        return activated(g, u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        g, u = ctx.saved_tensors
        dg, du = (torch.empty(g.shape, dtype=g.dtype, device=g.device) for _ in range(2))
        g_MF, u_MF, dy_MF, dg_MF, du_MF = (t.reshape(-1, g.shape[-1]) for t in (g, u, gradients[0], dg, du))
        _differentiated(g_MF, u_MF, None, dy_MF, dg_MF, du_MF)
        return dg, du


def swiglu(g: Tensor, u: Tensor) -> Tensor:
    """Return silu(g)·u of equal shapes (…, F)."""
    out: Tensor = _SwiGLU.apply(g, u)
    return out


def refusal(g: Tensor, u: Tensor) -> str:
    """Return why these operands are not for the kernels, with the remedy; "" if they are."""
    if g.dtype not in TYPES or u.dtype != g.dtype:
        types = f"{g.dtype} and {u.dtype}".replace("torch.", "")
        return f"gate and up rows are {types}, and must both be bfloat16, float16 or float32"
    if g.stride(-1) != 1 or u.stride(-1) != 1:
        shape = "×".join(map(str, g.shape))
        return f"the rows ({shape}) are a view with strides {g.stride()}; call .contiguous() first"
    return ""


SHIPPED = {
    "K2 expert bf16": (65536, 2048, torch.bfloat16, True, False),
    "K2 expert bf16 stored in FP8": (65536, 2048, torch.bfloat16, True, True),
    "K2 dense bf16": (8192, 18432, torch.bfloat16, False, False),
    "laptop fp32": (4096, 64, torch.float32, True, False),
}
"""Rows, hidden channels, type, gates of rows, storage of the input."""


def sample(case: str, device: str) -> None:
    """Run forward and backward of a case of SHIPPED with operands that hold anything."""
    M, F, dtype, gated, store = SHIPPED[case]
    rows = torch.empty(M, 2 * F, dtype=dtype, device=device)
    if gated:
        gate = torch.empty(M, 1, dtype=dtype, device=device)
        out, _ = weighted(rows, gate, store)
        gradients(rows, gate, torch.empty_like(out))
        return
    g, u = (half.contiguous().requires_grad_() for half in rows.chunk(2, -1))
    y = swiglu(g, u)
    y.backward(torch.empty_like(y))
