"""Causal attention of MLA as flash kernels: forward with each head's largest logit, and all gradients.

A forward's running row maximum is exact, so the maximum over a head costs one number a tile of queries. Every sum has a
fixed order: the gradient of the rotary key, which all heads share, is first written per head and then summed; with
`ATOMIC` heads add to one buffer in any order, which saves B·H·T·d numbers.

Shapes: as in kernels/latent_attention.py; E = N + d channels of a query head, X = N + V of a key and value head, M and
C positions of a tile of queries and of keys.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.gpu.rotary import has_dense_rows, rotate
from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDTHS = (16, 32, 64, 128)
"""Widths of content, rotary and value channels that tiles can have."""
ATOMIC = False
"""Whether heads add their gradients of the shared rotary key by atomics: less memory, and no fixed order."""

LOG2E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Tile:
    """The sizes of one kernel's tiles, and its options."""

    M: int
    C: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of forward, dK/dV and dQ."""

    forward: Tile
    keys: Tile
    queries: Tile


WIDE = Tiles(Tile(128, 64, 8, 3), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2))
"""K2's heads, 128 + 64 and 128, in 16 bit: the largest tiles that compile for sm_90a without spilling registers."""
NARROW = Tiles(Tile(128, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2))
EXACT = Tiles(Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1))
EXACT_WIDE = Tiles(Tile(32, 16, 8, 1), Tile(32, 32, 8, 1), Tile(32, 16, 8, 1))
"""fp32, whose products are not on tensor cores."""


def tiles(dtype: torch.dtype, content: int, rotary: int, value: int) -> Tiles:
    """Return the tiles for operands of a type and of these widths."""
    wide = content + rotary + value > 192
    if dtype == torch.float32:
        return EXACT_WIDE if wide else EXACT
    return WIDE if wide else NARROW


@triton.jit
def _dot(a, b, sum, EXACT: tl.constexpr):
    """Multiply on tensor cores; fp32 operands are not rounded to tf32."""
    return tl.dot(a, b, sum, input_precision="ieee") if EXACT else tl.dot(a, b, sum)


@triton.jit
def _forward(
    Q, QR, KV, KR, START, VALID, Y, LSE, TOP, scale, T, tiles, H,
    DOCUMENTS: tl.constexpr, PADDED: tl.constexpr, EXACT: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, V: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Attend from one tile of queries of one head to all keys up to it; the longest tiles start first."""
    tile, row = tiles - 1 - tl.program_id(0) % tiles, tl.program_id(0) // tiles
    b, h = row // H, row % H
    first, tokens = tile * M, b.to(tl.int64) * T
    m, c = tl.arange(0, M), tl.arange(0, C)
    n, d, v = tl.arange(0, N), tl.arange(0, D), tl.arange(0, V)
    own = first + m
    live = own < T
    start = tokens + first
    q = tl.load(Q + start * H * (N + D) + h * (N + D) + m[:, None] * H * (N + D) + n[None, :], live[:, None], 0.0)
    qr = tl.load(QR + start * H * D + h * D + m[:, None] * H * D + d[None, :], live[:, None], 0.0)
    begin, lowest = m * 0, 0
    if DOCUMENTS:
        begin = tl.load(START + start + m, live, 0)
        lowest = tl.load(START + start) // C * C
    log_scale = scale * LOG2E
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    y = tl.zeros((M, V), tl.float32)
    for s in range(lowest, tl.minimum(first + M, T), C):
        seen = s + c
        here = seen < T
        kv = KV + (tokens + s) * H * (N + V) + h * (N + V)
        k = tl.load(kv + c[None, :] * H * (N + V) + n[:, None], here[None, :], 0.0)
        kr = tl.load(KR + (tokens + s) * D + c[None, :] * D + d[:, None], here[None, :], 0.0)
        logits = _dot(qr, kr, _dot(q, k, None, EXACT), EXACT)
        allowed = (own[:, None] >= seen[None, :]) & here[None, :]
        if DOCUMENTS:
            allowed = allowed & (seen[None, :] >= begin[:, None])
        logits = tl.where(allowed, logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # of a document that begins in a later tile
        weights = tl.exp2(logits * log_scale - (finite * log_scale)[:, None])
        shrink = tl.exp2((top - finite) * log_scale)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(kv + N + c[:, None] * H * (N + V) + v[None, :], here[:, None], 0.0)
        y = _dot(weights.to(values.dtype), values, y * shrink[:, None], EXACT)
        top = higher
    out = Y + start * H * V + h * V + m[:, None] * H * V + v[None, :]
    tl.store(out, (y / total[:, None]).to(Y.dtype.element_ty), live[:, None])
    tl.store(LSE + row.to(tl.int64) * T + own, top * log_scale + tl.log2(total), live)
    counted = live
    if PADDED:
        counted = live & (tl.load(VALID + start + m, live, 0) != 0)
    largest = tl.max(tl.where(counted, top, float("-inf")), 0) * scale
    broken = tl.max((counted & ~(total >= 0)).to(tl.int32), 0)  # a maximum passes over NaN, a sum does not
    tl.store(TOP + row.to(tl.int64) * tiles + tile, tl.where(broken != 0, float("nan"), largest))


@triton.jit
def _shares(Y, DY, SHARE, T, H, V: tl.constexpr, M: tl.constexpr):
    """Write Σ_v y·dy of a tile of queries: what each of a query's weights takes from its gradient."""
    row = tl.program_id(0)
    b, h = row // H, row % H
    m, v = tl.arange(0, M), tl.arange(0, V)
    own = tl.program_id(1) * M + m
    at = (b.to(tl.int64) * T + tl.program_id(1) * M) * H * V + h * V + m[:, None] * H * V + v[None, :]
    live = own < T
    y = tl.load(Y + at, live[:, None], 0.0).to(tl.float32)
    dy = tl.load(DY + at, live[:, None], 0.0).to(tl.float32)
    tl.store(SHARE + row.to(tl.int64) * T + own, tl.sum(y * dy, 1), live)


@triton.jit
def _backward_keys(
    Q, QR, KV, KR, END, DY, LSE, SHARE, DKV, DKR, scale, T, tiles, H,
    DOCUMENTS: tl.constexpr, ATOMIC: tl.constexpr, EXACT: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, V: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of one tile of a head's keys and values over all later queries, transposed: (C, M) logits."""
    tile, row = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    b, h = row // H, row % H
    first, tokens = tile * C, b.to(tl.int64) * T
    m, c = tl.arange(0, M), tl.arange(0, C)
    n, d, v = tl.arange(0, N), tl.arange(0, D), tl.arange(0, V)
    seen = first + c
    here = seen < T
    start = tokens + first
    kv = start * H * (N + V) + h * (N + V) + c[:, None] * H * (N + V)
    k = tl.load(KV + kv + n[None, :], here[:, None], 0.0)
    values = tl.load(KV + kv + N + v[None, :], here[:, None], 0.0)
    kr = tl.load(KR + start * D + c[:, None] * D + d[None, :], here[:, None], 0.0)
    end, last = c * 0, T
    if DOCUMENTS:
        end = tl.load(END + start + c, here, 0)
        last = tl.load(END + tokens + tl.minimum(first + C, T) - 1)
    log_scale = scale * LOG2E
    dk = tl.zeros((C, N), tl.float32)
    dkr = tl.zeros((C, D), tl.float32)
    dv = tl.zeros((C, V), tl.float32)
    for s in range(first // M * M, last, M):
        own = s + m
        live = own < T
        at = tokens + s
        q = tl.load(Q + at * H * (N + D) + h * (N + D) + m[:, None] * H * (N + D) + n[None, :], live[:, None], 0.0)
        qr = tl.load(QR + at * H * D + h * D + m[:, None] * H * D + d[None, :], live[:, None], 0.0)
        dy = tl.load(DY + at * H * V + h * V + m[:, None] * H * V + v[None, :], live[:, None], 0.0)
        lse = tl.load(LSE + row.to(tl.int64) * T + own, live, 0.0)
        share = tl.load(SHARE + row.to(tl.int64) * T + own, live, 0.0)
        logits = _dot(kr, tl.trans(qr), _dot(k, tl.trans(q), None, EXACT), EXACT)
        allowed = (own[None, :] >= seen[:, None]) & live[None, :]
        if DOCUMENTS:
            allowed = allowed & (own[None, :] < end[:, None])
        weights = tl.where(allowed, tl.exp2(logits * log_scale - lse[None, :]), 0.0)
        dv = _dot(weights.to(dy.dtype), dy, dv, EXACT)
        dlogits = weights * (_dot(values, tl.trans(dy), None, EXACT) - share[None, :])
        dlogits = dlogits.to(q.dtype)
        dk = _dot(dlogits, q, dk, EXACT)
        dkr = _dot(dlogits, qr, dkr, EXACT)
    tl.store(DKV + kv + n[None, :], (dk * scale).to(DKV.dtype.element_ty), here[:, None])
    tl.store(DKV + kv + N + v[None, :], dv.to(DKV.dtype.element_ty), here[:, None])
    if ATOMIC:
        tl.atomic_add(DKR + start * D + c[:, None] * D + d[None, :], dkr * scale, here[:, None])
    else:
        partial = DKR + (row.to(tl.int64) * T + first) * D
        tl.store(partial + c[:, None] * D + d[None, :], dkr * scale, here[:, None])


@triton.jit
def _backward_queries(
    Q, QR, KV, KR, START, DY, LSE, SHARE, DQ, scale, T, tiles, H,
    DOCUMENTS: tl.constexpr, EXACT: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, V: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of one tile of a head's queries over all keys up to it."""
    tile, row = tiles - 1 - tl.program_id(0) % tiles, tl.program_id(0) // tiles
    b, h = row // H, row % H
    first, tokens = tile * M, b.to(tl.int64) * T
    m, c = tl.arange(0, M), tl.arange(0, C)
    n, d, v = tl.arange(0, N), tl.arange(0, D), tl.arange(0, V)
    own = first + m
    live = own < T
    start = tokens + first
    queries = start * H * (N + D) + h * (N + D) + m[:, None] * H * (N + D)
    q = tl.load(Q + queries + n[None, :], live[:, None], 0.0)
    qr = tl.load(QR + start * H * D + h * D + m[:, None] * H * D + d[None, :], live[:, None], 0.0)
    dy = tl.load(DY + start * H * V + h * V + m[:, None] * H * V + v[None, :], live[:, None], 0.0)
    lse = tl.load(LSE + row.to(tl.int64) * T + own, live, 0.0)
    share = tl.load(SHARE + row.to(tl.int64) * T + own, live, 0.0)
    begin, lowest = m * 0, 0
    if DOCUMENTS:
        begin = tl.load(START + start + m, live, 0)
        lowest = tl.load(START + start) // C * C
    log_scale = scale * LOG2E
    dq = tl.zeros((M, N), tl.float32)
    dqr = tl.zeros((M, D), tl.float32)
    for s in range(lowest, tl.minimum(first + M, T), C):
        seen = s + c
        here = seen < T
        kv = KV + (tokens + s) * H * (N + V) + h * (N + V) + c[:, None] * H * (N + V)
        k = tl.load(kv + n[None, :], here[:, None], 0.0)
        values = tl.load(kv + N + v[None, :], here[:, None], 0.0)
        kr = tl.load(KR + (tokens + s) * D + c[:, None] * D + d[None, :], here[:, None], 0.0)
        logits = _dot(qr, tl.trans(kr), _dot(q, tl.trans(k), None, EXACT), EXACT)
        allowed = (own[:, None] >= seen[None, :]) & live[:, None]
        if DOCUMENTS:
            allowed = allowed & (seen[None, :] >= begin[:, None])
        weights = tl.where(allowed, tl.exp2(logits * log_scale - lse[:, None]), 0.0)
        dlogits = (weights * (_dot(dy, tl.trans(values), None, EXACT) - share[:, None])).to(q.dtype)
        dq = _dot(dlogits, k, dq, EXACT)
        dqr = _dot(dlogits, kr, dqr, EXACT)
    tl.store(DQ + queries + n[None, :], (dq * scale).to(DQ.dtype.element_ty), live[:, None])
    tl.store(DQ + queries + N + d[None, :], (dqr * scale).to(DQ.dtype.element_ty), live[:, None])


class _LatentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BTHE: Tensor,
        kv_BTHX: Tensor,
        k_rotary_BTd: Tensor,
        turn: Tensor,
        scale: float,
        valid_BT: Tensor | None,
        start_BT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        B, T, H, E = q_BTHE.shape
        d = k_rotary_BTd.shape[-1]
        N, V = E - d, kv_BTHX.shape[-1] - E + d
        q_rotary, k_rotary = _rotated(q_BTHE, k_rotary_BTd, turn)
        y = q_BTHE.new_empty(B, T, H, V)
        lse = q_BTHE.new_empty(B * H, T, dtype=torch.float32)
        shape = {"N": N, "D": d, "V": V, "EXACT": q_BTHE.dtype == torch.float32}
        tile = tiles(q_BTHE.dtype, N, d, V).forward
        n_tiles = triton.cdiv(T, tile.M)
        top = q_BTHE.new_empty(B, H, n_tiles, dtype=torch.float32)
        launch(
            _forward, (n_tiles * B * H,),
            q_BTHE, q_rotary, kv_BTHX, k_rotary, start_BT, valid_BT, y, lse, top, scale, T, n_tiles, H,
            DOCUMENTS=start_BT is not None, PADDED=valid_BT is not None, **shape, **vars(tile),
        )  # fmt: skip
        ctx.save_for_backward(q_BTHE, kv_BTHX, k_rotary_BTd, turn, y, lse, start_BT)
        ctx.scale, ctx.shape = scale, shape
        largest_H = top.amax((0, 2))
        ctx.mark_non_differentiable(largest_H)
        return y, largest_H

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, k_rotary_BTd, turn, y, lse, start_BT = ctx.saved_tensors
        q_rotary, k_rotary = _rotated(q, k_rotary_BTd, turn)
        B, T, H, _ = q.shape
        N, d, V = (ctx.shape[name] for name in "NDV")
        dy = gradients[0].contiguous()
        how = tiles(q.dtype, N, d, V)
        documents = {"DOCUMENTS": start_BT is not None}
        share = torch.empty_like(lse)
        launch(_shares, (B * H, triton.cdiv(T, 64)), y, dy, share, T, H, V=V, M=64, num_warps=4, num_stages=1)
        dkv, dq = torch.empty_like(kv), torch.empty_like(q)
        spread = q.new_zeros(B, 1, T, d, dtype=torch.float32) if ATOMIC else lse.new_empty(B, H, T, d)
        n_tiles = triton.cdiv(T, how.keys.C)
        launch(
            _backward_keys, (n_tiles * B * H,),
            q, q_rotary, kv, k_rotary, document_ends(start_BT), dy, lse, share, dkv, spread, ctx.scale, T, n_tiles, H,
            ATOMIC=ATOMIC, **documents, **ctx.shape, **vars(how.keys),
        )  # fmt: skip
        n_tiles = triton.cdiv(T, how.queries.M)
        launch(
            _backward_queries, (n_tiles * B * H,),
            q, q_rotary, kv, k_rotary, start_BT, dy, lse, share, dq, ctx.scale, T, n_tiles, H,
            **documents, **ctx.shape, **vars(how.queries),
        )  # fmt: skip
        rotate(dq[..., N:], turn, dq[..., N:], sign=-1.0)
        dk_rotary = rotate(spread.sum(1)[:, :, None], turn, torch.empty_like(k_rotary), sign=-1.0)
        return dq, dkv, dk_rotary[:, :, 0], None, None, None, None


def _rotated(q_BTHE: Tensor, k_rotary_BTd: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotated channels of queries, (B, T, H, d), and of the keys that all heads share, (B, T, 1, d)."""
    B, T, H, E = q_BTHE.shape
    d = k_rotary_BTd.shape[-1]
    q_rotary = rotate(q_BTHE[..., E - d :], turn, q_BTHE.new_empty(B, T, H, d))
    return q_rotary, rotate(k_rotary_BTd[:, :, None], turn, k_rotary_BTd.new_empty(B, T, 1, d))


def document_ends(start_BT: Tensor | None) -> Tensor | None:
    """Return the position after the last of each position's document, int32 (B, T), from their first ones."""
    if start_BT is None:
        return None
    T = start_BT.shape[1]
    position_T = torch.arange(T, device=start_BT.device, dtype=start_BT.dtype)
    begins = torch.where(start_BT == position_T, position_T, T).flip(1)
    following = torch.cat((torch.full_like(begins[:, :1], T), begins[:, :-1]), 1).cummin(1).values
    return following.flip(1).to(torch.int32)


def refusal(q_BTHE: Tensor, kv_BTHX: Tensor, k_rotary_BTd: Tensor) -> str:
    """Return why these operands are not for the kernels, with the remedy; "" if they are."""
    d = k_rotary_BTd.shape[-1]
    N, V = q_BTHE.shape[-1] - d, kv_BTHX.shape[-1] - q_BTHE.shape[-1] + d
    if {t.dtype for t in (q_BTHE, kv_BTHX, k_rotary_BTd)} - {q_BTHE.dtype} or q_BTHE.dtype not in TYPES:
        types = ", ".join(str(t.dtype).removeprefix("torch.") for t in (q_BTHE, kv_BTHX, k_rotary_BTd))
        return f"queries, keys and rotary keys are {types}, and must all be bfloat16, float16 or float32"
    if not {N, d, V} <= set(WIDTHS):
        return f"heads of {N} + {d} and {V} channels are not among {', '.join(map(str, WIDTHS))}; choose such widths"
    dense = q_BTHE.is_contiguous(), kv_BTHX.is_contiguous(), has_dense_rows(k_rotary_BTd)
    names = "queries", "keys and values", "rotary keys"
    for name, tensor, fits in zip(names, (q_BTHE, kv_BTHX, k_rotary_BTd), dense):
        if not fits:
            shape = "×".join(map(str, tensor.shape))
            return f"the {name} ({shape}) are a view with strides {tensor.stride()}; call .contiguous() first"
    return ""


def latent_attention(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    valid_BT: Tensor | None = None,
    start_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend as kernels.latent_attention.latent_attention does; return y (B, T, H, V) and the maxima (H,) in fp32.

    `start_BT`, int32, is the first position of each position's document.
    """
    y, largest_H = _LatentAttention.apply(
        q_BTHE, kv_BTHX, k_rotary_BTd, turn.to(torch.complex64), scale, valid_BT, start_BT
    )
    return y, largest_H


SHIPPED = {
    "K2 bf16": ((128, 64, 128), 64, torch.bfloat16, False),
    "K2 bf16 documents": ((128, 64, 128), 64, torch.bfloat16, True),
    "K2 fp32": ((128, 64, 128), 64, torch.float32, False),
    "h200 bf16": ((64, 32, 64), 8, torch.bfloat16, False),
    "laptop bf16": ((32, 16, 32), 4, torch.bfloat16, False),
    "laptop fp32": ((32, 16, 32), 4, torch.float32, False),
}
"""The profiles' heads: widths of content, rotary and value channels, number of heads, type, packed documents."""


def sample(case: str, device: str, B: int = 2, T: int = 4096) -> None:
    """Run forward and backward of a case of SHIPPED with operands that hold anything."""
    (N, d, V), H, dtype, documents = SHIPPED[case]
    q, kv, k = (
        torch.empty(*shape, dtype=dtype, device=device, requires_grad=True)
        for shape in ((B, T, H, N + d), (B, T, H, N + V), (B, T, d))
    )
    turn = torch.empty(T, d // 2, dtype=torch.complex64, device=device)
    start = torch.zeros(B, T, dtype=torch.int32, device=device) if documents else None
    valid = torch.ones(B, T, dtype=torch.bool, device=device) if documents else None
    y, _ = latent_attention(q, kv, k, turn, 0.1, valid, start)
    y.backward(torch.empty_like(y))
