"""QK-Clip: shrink the query and key weights of a head whose logits grew past τ (arXiv 2507.20534, Algorithm 1).

Shapes: H heads, N content and d rotary channels of a query or key head, V channels of a value head.
"""

import torch
from torch import Tensor

from engine.errors import UserError
from engine.model.attention import LatentAttention


def clip_factors(max_logit_H: Tensor, tau: float) -> Tensor:
    """γ = τ/S where S > τ, else exactly 1, per head; a negative or -inf maximum (no logit seen) gives 1.

    The comparison, not min(1, τ/S), decides: a small negative S would make the ratio negative and its root NaN.
    """
    return torch.where(max_logit_H > tau, tau / max_logit_H, torch.ones_like(max_logit_H))


def check_maxima(attentions: list[LatentAttention]) -> None:
    """Raise UserError naming layer and head where a recorded maximum is NaN or +inf. Changes nothing."""
    for layer, attention in enumerate(attentions):
        bad = attention.max_logit_H.isnan() | (attention.max_logit_H == float("inf"))
        if bad.any():
            head = int(bad.nonzero()[0])
            raise UserError(
                f"layer {layer}, head {head}: the largest attention logit is {attention.max_logit_H[head]}; "
                "training has diverged: lower the learning rate or tau"
            )


@torch.no_grad()
def qk_clip_(attention: LatentAttention, tau: float) -> int:
    """Scale the rows of the heads over `tau` in place; the number of such heads.

    Content rows of query and key by √γ, rotary query rows by γ, so that both terms of the logit shrink by γ; the
    rotary key is shared by all heads and stays; value rows and other heads keep their bits.
    """
    gamma_H = clip_factors(attention.max_logit_H, tau)
    over = (gamma_H < 1).nonzero().flatten()
    if over.numel() == 0:
        return 0
    c = attention.config
    gamma = gamma_H[over, None, None]
    queries = attention.query_weight().view(c.num_attention_heads, c.qk_head_dim, -1)
    keys = attention.kv_b_proj.weight.view(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, -1)
    queries[over, : c.qk_nope_head_dim] *= gamma.sqrt()
    queries[over, c.qk_nope_head_dim :] *= gamma
    keys[over, : c.qk_nope_head_dim] *= gamma.sqrt()
    return int(over.numel())
