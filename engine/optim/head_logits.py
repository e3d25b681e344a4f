"""QK-Clip for plain attention (MHA, GQA, MQA): a recorder that works with the projections of any torch model.

Shapes: B batch, H query heads, G key heads, T positions, E channels of a head.
"""

from typing import cast

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.optim.layout import Rows
from kernels.max_logit import max_logit


class HeadLogits(nn.Module):
    """Records each query head's largest logit, and says which rows to scale (k2-facts 2.1).

    MHA: W_q and W_k by √γ each. GQA and MQA: W_q by γ, since the heads of a group share W_k, which stays unchanged.
    `q_proj` and `k_proj` have H·E and G·E rows, head after head; everything between them and the logits must be linear
    in them.
    """

    def __init__(self, q_proj: nn.Linear, k_proj: nn.Linear, heads: int, kv_heads: int | None = None) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        E, odd = divmod(q_proj.out_features, heads)
        if odd or heads % kv_heads or k_proj.out_features != kv_heads * E:
            raise UserError(
                f"HeadLogits: {q_proj.out_features} query and {k_proj.out_features} key rows do not divide into "
                f"{heads} and {kv_heads} heads of one width; correct heads or kv_heads"
            )
        # A tuple, not submodules: the projections are registered, and saved, by their own module.
        self.scaled = (q_proj, k_proj) if kv_heads == heads else (q_proj,)
        self.heads, self.head_dim = heads, E
        # Not a buffer: it would follow the model to bf16, and S would no longer be exact.
        self.max_logit_H = torch.full((heads,), float("-inf"))

    def record(self, q_BHTE: Tensor, k_BGTE: Tensor, scale: float) -> None:
        """Record a causal attention's maxima; does nothing except in training forwards with gradients."""
        if not (self.training and torch.is_grad_enabled()):
            return
        k_BHTE = k_BGTE.repeat_interleave(self.heads // k_BGTE.shape[1], dim=1)
        new = max_logit(q_BHTE.detach(), k_BHTE.detach(), scale)
        self.max_logit_H = torch.maximum(self.max_logit_H.to(new.device), new)

    def reset_max_logit(self) -> None:
        """Reset the maxima."""
        self.max_logit_H = torch.full_like(self.max_logit_H, float("-inf"))

    def clip_rows(self) -> list[Rows]:
        """Return the rows to scale of the projections' current weights, which loading may have replaced."""
        E, power = self.head_dim, 1 / len(self.scaled)
        return [
            Rows(cast(nn.Parameter, p.weight), E, 0, E, power, cast(nn.Parameter | None, p.bias)) for p in self.scaled
        ]
