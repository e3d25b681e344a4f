"""Causal attention of MLA in one op: rotation, logits with their per-head maximum, softmax, values, all gradients.

The maximum is what QK-Clip acts on (arXiv 2507.20534, section 2.1). Where the logits exist anyway, it costs one more
read of them; next to a fused attention that hides its logits, it costs their product a second time.

Shapes: B rows, T positions, H heads, N content and d = 2P rotary channels of a query or key head, V channels of a value
head, C queries of a block, G = B·H heads of all rows.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.choice import accepted, has_triton, on_gpu
from kernels.kept import as_type, derived
from kernels.max_logit import max_logit
from kernels.precision import wide, without_autocast

BLOCK = 64
CACHED = 2**17
"""Logits that a group of heads may have in a block of queries: half a MiB in fp32, which fits a core's own cache."""
KEEP = 2**25
"""Up to this many attention weights are kept for the backward; beyond, each block recomputes its own."""


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the interleaved pairs of x (…, d) by the complex numbers `turn` (…, P), in fp32 or better; type of x."""
    return torch.view_as_real(_pairs(x.to(wide(x.dtype))) * turn).flatten(-2).to(x.dtype)


def _pairs(x: Tensor) -> Tensor:
    """Return the last axis of x as complex numbers, (…, d) → (…, P): a view unless an odd width misaligns pairs."""
    if x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
        x = x.contiguous()
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def heads(q_BTHE: Tensor, kv_BTHX: Tensor, k_rotary_BTd: Tensor, turn: Tensor) -> tuple[Tensor, ...]:
    """Return queries and keys (B, H, T, N+d) and values (B, H, T, V), expanded per head from the projections."""
    N = q_BTHE.shape[-1] - k_rotary_BTd.shape[-1]
    return _queries(q_BTHE, turn, N), _keys(kv_BTHX, k_rotary_BTd, turn, N), kv_BTHX[..., N:].transpose(1, 2)


def _queries(q_BTHE: Tensor, turn: Tensor, content: int) -> Tensor:
    return torch.cat((q_BTHE[..., :content], rotate(q_BTHE[..., content:], turn[..., None, :])), -1).transpose(1, 2)


def _keys(kv_BTHX: Tensor, k_rotary_BTd: Tensor, turn: Tensor, content: int) -> Tensor:
    k_rotary = rotate(k_rotary_BTd, turn)[..., None, :].expand(-1, -1, kv_BTHX.shape[2], -1)
    return torch.cat((kv_BTHX[..., :content], k_rotary), -1).transpose(1, 2)


def _padded_values(kv_BTHX: Tensor, content: int, width: int) -> Tensor:
    v = kv_BTHX[..., content:].transpose(1, 2)
    return F.pad(v, (0, max(0, width - v.shape[-1])))


def reference(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    valid_BT: Tensor | None = None,
    start_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Specify the op with all logits at once; return y (B, T, H, V) and each head's largest logit (H,), as below."""
    q, k, v = heads(q_BTHE, kv_BTHX, k_rotary_BTd, turn)
    logits = (q @ k.mT).to(wide(q.dtype)) * scale
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
    logits = logits.masked_fill(future, float("-inf"))
    if start_BT is not None:
        logits = logits.masked_fill(_before(start_BT, start_BT.shape[1])[:, None], float("-inf"))
    y = logits.softmax(-1).to(v.dtype) @ v
    if valid_BT is not None:
        logits = logits.masked_fill(~valid_BT[:, None, :, None], float("-inf"))
    return y.transpose(1, 2), logits.detach().amax((0, 2, 3))


def _before(start_BC: Tensor, S: int) -> Tensor:
    """Return whether each of S keys is before its query's document, (B, C, S)."""
    return torch.arange(S, device=start_BC.device) < start_BC[..., None]


def _join(content: Tensor, rotary: Tensor, turn: Tensor, scale: float) -> Tensor:
    """Join (B, T, H, N) and the rotated (B, T, H or 1, d) into one contiguous (B, H, T, N+d); all times `scale`."""
    B, T, H, N = content.shape
    out = content.new_empty(B, H, T, N + rotary.shape[-1])
    torch.mul(content.transpose(1, 2), scale, out=out[..., :N])
    turned = _pairs(rotary.transpose(1, 2)) * (turn * scale)
    out[..., N:] = torch.view_as_real(turned).flatten(-2)
    return out


def _query(q_BTHE: Tensor, turn: Tensor, content: int, scale: float) -> Tensor:
    """Return the scaled and rotated queries of all heads, (G, T, N+d)."""
    return _join(q_BTHE[..., :content], q_BTHE[..., content:], turn, scale).flatten(0, 1)


def _key(kv_BTHX: Tensor, k_rotary_BTd: Tensor, turn: Tensor, content: int) -> Tensor:
    """Return the keys of all heads, (G, T, N+d), of which the rotated part is the same in each."""
    return _join(kv_BTHX[..., :content], k_rotary_BTd[:, :, None], turn, 1.0).flatten(0, 1)


def _value(kv_BTHX: Tensor, content: int) -> Tensor:
    """Return the values of all heads, (G, T, V)."""
    return kv_BTHX[..., content:].transpose(1, 2).flatten(0, 1)


def _blocks(count: int, T: int) -> Iterator[tuple[slice, range]]:
    """Yield groups of heads (of all rows) and blocks of queries whose logits stay in a core's cache."""
    lot = max(1, CACHED // (min(BLOCK, T) * T))
    for first in range(0, count, lot):
        for start in range(0, T, BLOCK):
            yield slice(first, min(first + lot, count)), range(start, min(start + BLOCK, T))


def _n_weights(count: int, T: int) -> int:
    """Return the number of attention weights of all blocks: about half of count·T²."""
    return count * sum(len(block) * block.stop for _, block in _blocks(1, T))


def _logits(q_GTE: Tensor, k_GTE: Tensor, block: range, future_CC: Tensor, start_GT: Tensor | None = None) -> Tensor:
    """Return the softmax input of a block of queries over the keys up to its end, with the future at -inf.

    `future_CC` is -inf above the diagonal, else 0. The future is zeroed first, since masked entries may be NaN.
    (Filling under a mask takes four times as long.)
    """
    logits = torch.bmm(q_GTE[:, block.start : block.stop], k_GTE[:, : block.stop].mT)
    logits[..., block.start :].tril_().add_(future_CC[: len(block), : len(block)])
    if start_GT is not None:
        logits.masked_fill_(_before(start_GT[:, block.start : block.stop], block.stop), float("-inf"))
    return logits


class _LatentAttention(torch.autograd.Function):
    """Works on groups of heads and blocks of queries, without the masked half of the logits; fp32 or fp64."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        q_BTHE: Tensor,
        kv_BTHX: Tensor,
        k_rotary_BTd: Tensor,
        turn: Tensor,
        scale: float,
        maximum: bool,
        valid_BT: Tensor | None,
        start_BT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        B, T, H, E = q_BTHE.shape
        N = E - k_rotary_BTd.shape[-1]
        q = derived(_query(q_BTHE, turn, N, scale), partial(_query, content=N, scale=scale), q_BTHE, turn)
        k = derived(_key(kv_BTHX, k_rotary_BTd, turn, N), partial(_key, content=N), kv_BTHX, k_rotary_BTd, turn)
        v = derived(_value(kv_BTHX, N), partial(_value, content=N), kv_BTHX)
        future_CC = q.new_full((BLOCK, BLOCK), float("-inf")).triu_(1)
        y, largest_G = torch.empty_like(v), q.new_full((B * H,), float("-inf"))
        kept: list[Tensor] = []
        keep = _n_weights(B * H, T) <= KEEP
        valid_GT = None if valid_BT is None else valid_BT.repeat_interleave(H, 0)
        start_GT = None if start_BT is None else start_BT.repeat_interleave(H, 0)
        for lot, block in _blocks(B * H, T):
            logits = _logits(q[lot], k[lot], block, future_CC, None if start_GT is None else start_GT[lot])
            if maximum:
                top_GC = logits.amax(-1)
                if valid_GT is not None:
                    top_GC = top_GC.masked_fill(~valid_GT[lot, block.start : block.stop], float("-inf"))
                torch.maximum(largest_G[lot], top_GC.amax(-1), out=largest_G[lot])
            weights = logits.softmax(-1)
            y[lot, block.start : block.stop] = torch.bmm(weights, v[lot, : block.stop])
            if keep:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, turn, future_CC, *kept)
        ctx.shape, ctx.content, ctx.scale, ctx.start_GT = (B, H), N, scale, start_GT
        largest_H = largest_G.view(B, H).amax(0)
        ctx.mark_non_differentiable(largest_H)
        return y.unflatten(0, (B, H)).transpose(1, 2), largest_H

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, turn, future_CC, *kept = ctx.saved_tensors
        start_GT = ctx.start_GT
        dy = gradients[0].transpose(1, 2).flatten(0, 1)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for index, (lot, block) in enumerate(_blocks(*q.shape[:2])):
            own, seen = slice(block.start, block.stop), slice(block.stop)
            if kept:
                weights = kept[index]
            else:
                start = None if start_GT is None else start_GT[lot]
                weights = _logits(q[lot], k[lot], block, future_CC, start).softmax(-1)
            dv[lot, seen] += torch.bmm(weights.mT, dy[lot, own])
            dweights = torch.bmm(dy[lot, own], v[lot, seen].mT)
            dlogits = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dq[lot, own] = torch.bmm(dlogits, k[lot, seen])
            dk[lot, seen] += torch.bmm(dlogits.mT, q[lot, own])
        dq, dk, dv = (part.unflatten(0, ctx.shape) for part in (dq, dk, dv))
        return *_split(dq, dk, dv, turn, ctx.content, ctx.scale), None, None, None, None, None


def _split(
    dq: Tensor, dk: Tensor, dv: Tensor, turn: Tensor, content: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of heads (B, H, T, …) in the projections' layout; the rotary key's is summed over its heads."""
    B, H, T, E = dq.shape
    back = turn.conj()
    dq_BTHE, dkv_BTHX = dq.new_empty(B, T, H, E), dq.new_empty(B, T, H, content + dv.shape[-1])
    torch.mul(dq[..., :content].transpose(1, 2), scale, out=dq_BTHE[..., :content])
    turned = _pairs(dq[..., content:]) * (back * scale)
    dq_BTHE[..., content:] = torch.view_as_real(turned).flatten(-2).transpose(1, 2)
    dkv_BTHX[..., :content] = dk[..., :content].transpose(1, 2)
    dkv_BTHX[..., content:] = dv.transpose(1, 2)
    dk_rotary = _pairs(dk[..., content:].sum(1, keepdim=True)) * back
    return dq_BTHE, dkv_BTHX, torch.view_as_real(dk_rotary).flatten(-2)[:, 0]


def latent_attention(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    maximum: bool = True,
    valid_BT: Tensor | None = None,
    start_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend causally over a whole sequence; if `maximum`, also return each head's largest softmax input.

    `q_BTHE` (B, T, H, N+d) holds content then rotary channels, `kv_BTHX` (B, T, H, N+V) key content then values,
    `k_rotary_BTd` the rotary key that all heads share; the complex `turn` (T or B×T, P) rotates the interleaved pairs.
    Returns y (B, T, H, V) in q's type and the maxima (H,) in fp32 or better: exact, signed, without future pairs and,
    with `valid_BT`, without the queries that are only padding; y does not depend on `valid_BT`. With `start_BT` int32,
    the first position of each position's document, a query sees its own document alone. A CPU computes products in fp32
    (fp64 for fp64) from the inputs' own values, as fused kernels accumulate. A GPU runs Triton's kernels, or torch's
    fused attention with a second pass for the maxima where those do not take the operands (kernels/choice.py).
    """
    operands = q_BTHE, kv_BTHX, k_rotary_BTd
    if on_gpu(q_BTHE) and has_triton("latent_attention"):
        from kernels.gpu import latent_attention as triton

        if accepted("latent_attention", triton.refusal(*operands)):
            y, largest_H = triton.latent_attention(*operands, turn, scale, valid_BT, start_BT)
            return y, largest_H if maximum else None
    if start_BT is not None:
        y, largest_H = _blockwise(*operands, turn, scale, maximum, valid_BT, start_BT)
        return y, largest_H if maximum else None
    attend = _blockwise if q_BTHE.device.type == "cpu" else _fused
    y, best_H = attend(*operands, turn, scale, maximum, valid_BT)
    return y, best_H if maximum else None


def _blockwise(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    maximum: bool,
    valid_BT: Tensor | None,
    start_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend with the op of this module, in fp32 or fp64."""
    dtype = wide(q_BTHE.dtype)
    q, kv, k_rotary = as_type(q_BTHE, dtype), as_type(kv_BTHX, dtype), as_type(k_rotary_BTd, dtype, "mla_up")
    y, largest_H = _LatentAttention.apply(q, kv, k_rotary, turn[..., None, :, :], scale, maximum, valid_BT, start_BT)
    return y.to(q_BTHE.dtype), largest_H


def _fused(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    maximum: bool,
    valid_BT: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Attend with the device's own fused attention, which hides its logits."""
    E = q_BTHE.shape[-1]
    N = E - k_rotary_BTd.shape[-1]
    V = kv_BTHX.shape[-1] - N
    q = derived(_queries(q_BTHE, turn, N), partial(_queries, content=N), q_BTHE, turn)
    k = derived(_keys(kv_BTHX, k_rotary_BTd, turn, N), partial(_keys, content=N), kv_BTHX, k_rotary_BTd, turn)
    # Fused attention needs heads of one width; without the padding it would write out all logits.
    v = derived(_padded_values(kv_BTHX, N, E), partial(_padded_values, content=N, width=E), kv_BTHX)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[..., :V].transpose(1, 2)
    return y, max_logit(q.detach(), k.detach(), scale, valid_BT) if maximum else None
