"""Causal attention of MLA in one op: rotation, logits with their per-head maximum, softmax, values, all gradients.

The maximum is what QK-Clip steers by (arXiv 2507.20534, section 2.1). Taken where the logits are at hand anyway it
costs one more read of them; beside a fused attention that hides its logits, their product a second time.

Shapes: B rows, T positions, H heads, N content and d = 2P rotary channels of a query or key head, V channels of a value
head, C queries of a block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.max_logit import largest, max_logit
from kernels.precision import wide

BLOCK = 64
KEEP = 2**25
"""Up to so many attention weights are kept for the backward; beyond, each block forms its own again."""


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the interleaved pairs of x (…, d) by the complex numbers `turn` (…, P), in fp32 or better; type of x."""
    return torch.view_as_real(_pairs(x.to(wide(x.dtype))) * turn).flatten(-2).to(x.dtype)


def _pairs(x: Tensor) -> Tensor:
    """The last axis of x as complex numbers: (…, d) → (…, P). A view, unless an odd head width misaligns the pairs."""
    if x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
        x = x.contiguous()
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def heads(q_BTHE: Tensor, kv_BTHX: Tensor, k_rotary_BTd: Tensor, turn: Tensor) -> tuple[Tensor, ...]:
    """Queries and keys (B, H, T, N+d) and values (B, H, T, V), written out per head from what the projections give."""
    d = k_rotary_BTd.shape[-1]
    content = q_BTHE.shape[-1] - d
    q_content, q_rotary = q_BTHE.split((content, d), -1)
    k_content, v = kv_BTHX.split((content, kv_BTHX.shape[-1] - content), -1)
    k_rotary = rotate(k_rotary_BTd, turn)[..., None, :].expand(-1, -1, q_BTHE.shape[2], -1)
    q = torch.cat((q_content, rotate(q_rotary, turn[..., None, :])), -1)
    return tuple(t.transpose(1, 2) for t in (q, torch.cat((k_content, k_rotary), -1), v))


def reference(
    q_BTHE: Tensor,
    kv_BTHX: Tensor,
    k_rotary_BTd: Tensor,
    turn: Tensor,
    scale: float,
    valid_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The specification: all logits at once. Returns y (B, T, H, V) and each head's largest logit (H,), as below."""
    q, k, v = heads(q_BTHE, kv_BTHX, k_rotary_BTd, turn)
    logits = (q @ k.mT).to(wide(q.dtype)) * scale
    future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
    logits = logits.masked_fill(future, float("-inf"))
    y = logits.softmax(-1).to(v.dtype) @ v
    if valid_BT is not None:
        logits = logits.masked_fill(~valid_BT[:, None, :, None], float("-inf"))
    return y.transpose(1, 2), logits.detach().amax((0, 2, 3))


def _join(content: Tensor, rotary: Tensor, turn: Tensor, scale: float) -> Tensor:
    """One contiguous (B, H, T, N+d) from (B, T, H, N) and (B, T, H or 1, d), the latter turned; all times `scale`."""
    B, T, H, N = content.shape
    out = content.new_empty(B, H, T, N + rotary.shape[-1])
    torch.mul(content.transpose(1, 2), scale, out=out[..., :N])
    turned = _pairs(rotary.transpose(1, 2)) * (turn * scale)
    out[..., N:] = torch.view_as_real(turned).flatten(-2)
    return out


def _logits(q_BHTE: Tensor, k_BHTE: Tensor, start: int, stop: int) -> Tensor:
    """Softmax input of the block of queries start:stop over the keys up to stop, the future at -inf."""
    logits = q_BHTE[:, :, start:stop] @ k_BHTE[:, :, :stop].mT
    logits[..., start:].add_(logits.new_full((stop - start, stop - start), float("-inf")).triu_(1))
    return logits


class _LatentAttention(torch.autograd.Function):
    """Blocks of queries, so that the masked half of the logits is never formed. In fp32 or fp64."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BTHE: Tensor,
        kv_BTHX: Tensor,
        k_rotary_BTd: Tensor,
        turn: Tensor,
        scale: float,
        maximum: bool,
        valid_BT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        N = q_BTHE.shape[-1] - k_rotary_BTd.shape[-1]
        q = _join(q_BTHE[..., :N], q_BTHE[..., N:], turn, scale)
        k = _join(kv_BTHX[..., :N], k_rotary_BTd[:, :, None], turn, 1.0)
        v = kv_BTHX[..., N:].transpose(1, 2).contiguous()
        B, H, T, _ = q.shape
        y = torch.empty_like(v)
        largest_H = q.new_full((H,), float("-inf"))
        kept: list[Tensor] = []
        for start in range(0, T, BLOCK):
            stop = min(start + BLOCK, T)
            logits = _logits(q, k, start, stop)
            if maximum:
                valid = None if valid_BT is None else valid_BT[:, start:stop]
                torch.maximum(largest_H, largest(logits, valid), out=largest_H)
            weights = logits.softmax(-1)
            y[:, :, start:stop] = weights @ v[:, :, :stop]
            if B * H * T * T <= KEEP:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, turn, *kept)
        ctx.content, ctx.scale = N, scale
        ctx.mark_non_differentiable(largest_H)
        return y.transpose(1, 2), largest_H

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        q, k, v, turn, *kept = ctx.saved_tensors
        dy = gradients[0].transpose(1, 2).contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, start in enumerate(range(0, q.shape[2], BLOCK)):
            stop = min(start + BLOCK, q.shape[2])
            weights = kept[block] if kept else _logits(q, k, start, stop).softmax(-1)
            dy_block = dy[:, :, start:stop]
            dv[:, :, :stop] += weights.mT @ dy_block
            dweights = dy_block @ v[:, :, :stop].mT
            dlogits = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dq[:, :, start:stop] = dlogits @ k[:, :, :stop]
            dk[:, :, :stop] += dlogits.mT @ q[:, :, start:stop]
        return *_split(dq, dk, dv, turn, ctx.content, ctx.scale), None, None, None, None


def _split(
    dq: Tensor, dk: Tensor, dv: Tensor, turn: Tensor, content: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of heads (B, H, T, …) back in the projections' layout; the rotary key's is summed over its heads."""
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
) -> tuple[Tensor, Tensor | None]:
    """Causal attention over a whole sequence and, where `maximum` is asked for, each head's largest softmax input.

    `q_BTHE` (B, T, H, N+d) holds content then rotary channels, `kv_BTHX` (B, T, H, N+V) key content then values,
    `k_rotary_BTd` the rotary key that all heads share; the complex `turn` (T or B×T, P)
    turns the interleaved pairs.
    Returns y (B, T, H, V) in q's type and the maxima (H,) in fp32 or better: exact, signed, future pairs left out
    and, with `valid_BT`, the queries that are only padding; y is the same with it and without.
    A CPU forms products in fp32 (fp64 for fp64) from the inputs' own values, as fused kernels accumulate.
    """
    if q_BTHE.device.type == "cpu":
        operands = (t.to(wide(t.dtype)) for t in (q_BTHE, kv_BTHX, k_rotary_BTd))
        y, largest_H = _LatentAttention.apply(*operands, turn[..., None, :, :], scale, maximum, valid_BT)
        return y.to(q_BTHE.dtype), largest_H if maximum else None
    q, k, v = heads(q_BTHE, kv_BTHX, k_rotary_BTd, turn)
    # Fused attention wants heads of one width; without the padding it would write out all logits.
    padded = F.pad(v, (0, max(0, q.shape[-1] - v.shape[-1])))
    y = F.scaled_dot_product_attention(q, k, padded, is_causal=True, scale=scale)[..., : v.shape[-1]].transpose(1, 2)
    return y, max_logit(q.detach(), k.detach(), scale, valid_BT) if maximum else None
