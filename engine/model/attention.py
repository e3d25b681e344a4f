"""Multi-head latent attention: low-rank queries, one compressed latent a token for keys and values of all heads.

Shapes: B batch, T new positions, S all positions, D model channels, H heads, N content and d rotary channels of a
query or key head, V channels of a value head, R latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.cache import LatentCache
from engine.model.config import K2Config
from engine.model.layers import Linear, RMSNorm
from engine.model.rope import rotate, softmax_scale
from engine.optim.layout import Rows
from kernels.max_logit import max_logit


class LatentAttention(nn.Module):
    """MLA of DeepSeek-V3 as K2 configures it; remembers each head's largest logit while training.

    `max_logit_H` holds S_max of the forwards since `reset_max_logit`, -inf where there was none (k2-facts 2.3).
    """

    max_logit_H: Tensor

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        c, heads = config, config.num_attention_heads
        self.config = config
        if c.q_lora_rank is None:
            self.q_proj = Linear(c.hidden_size, heads * c.qk_head_dim)
        else:
            self.q_a_proj = Linear(c.hidden_size, c.q_lora_rank)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
            self.q_b_proj = Linear(c.q_lora_rank, heads * c.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
        self.o_proj = Linear(heads * c.v_head_dim, c.hidden_size)
        self.scale = softmax_scale(config)
        self.register_buffer("max_logit_H", torch.full((heads,), float("-inf")), persistent=False)

    def reset_max_logit(self) -> None:
        """Forget the maxima: called once an optimizer step, also where the step is skipped."""
        self.max_logit_H.fill_(float("-inf"))

    def query_weight(self) -> nn.Parameter:
        """The projection that makes queries per head, rows H·(N+d): what QK-Clip scales."""
        weight = self.q_proj.weight if self.config.q_lora_rank is None else self.q_b_proj.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def clip_rows(self) -> list[Rows]:
        """What QK-Clip scales: content rows of query and key by √γ, rotary query rows by γ (k2-facts 2.1).

        The rotary key is shared by all heads and stays; so do the value rows that follow a head's key rows.
        """
        c, query, key = self.config, self.query_weight(), self.kv_b_proj.weight
        assert isinstance(key, nn.Parameter)
        return [
            Rows(query, c.qk_head_dim, first=0, count=c.qk_nope_head_dim, power=0.5),
            Rows(query, c.qk_head_dim, first=c.qk_nope_head_dim, count=c.qk_rope_head_dim, power=1.0),
            Rows(key, c.qk_nope_head_dim + c.v_head_dim, first=0, count=c.qk_nope_head_dim, power=0.5),
        ]

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: LatentCache | None,
        layer: int,
        visible: Tensor | None,
    ) -> Tensor:
        """Attend within the sequence (cache None) or to the cached past as well; (B, T, D)."""
        c = self.config
        q = self._queries(x_BTD)
        latent, k_rotary = self.kv_a_proj_with_mqa(x_BTD).split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        latent = self.kv_a_layernorm(latent)
        cos, sin = (part.to(latent.dtype) for part in rotation)
        q_content, q_rotary = q.split((c.qk_nope_head_dim, c.qk_rope_head_dim), -1)
        q_rotary = rotate(q_rotary, cos[..., None, :], sin[..., None, :])
        k_rotary = rotate(k_rotary, cos, sin)
        if cache is None:
            y = self._attend(q_content, q_rotary, latent, k_rotary)
        else:
            assert visible is not None
            stored = cache.append(layer, torch.cat((latent, k_rotary), -1))
            y = self._attend_absorbed(q_content, q_rotary, stored.to(latent.dtype), visible)
        out: Tensor = self.o_proj(y.flatten(-2))
        return out

    def _queries(self, x_BTD: Tensor) -> Tensor:
        c = self.config
        q = self.q_proj(x_BTD) if c.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        return q.unflatten(-1, (c.num_attention_heads, c.qk_head_dim))  # type: ignore[no-any-return]

    def _attend(self, q_content: Tensor, q_rotary: Tensor, latent_BTR: Tensor, k_rotary_BTd: Tensor) -> Tensor:
        """Keys and values written out per head, causal; (B, T, H, V)."""
        c = self.config
        kv = self.kv_b_proj(latent_BTR).unflatten(-1, (c.num_attention_heads, -1))
        k_content, v = kv.split((c.qk_nope_head_dim, c.v_head_dim), -1)
        k_rotary = k_rotary_BTd[:, :, None].expand(-1, -1, c.num_attention_heads, -1)
        q = torch.cat((q_content, q_rotary), -1).transpose(1, 2)
        k = torch.cat((k_content, k_rotary), -1).transpose(1, 2)
        if self.training and torch.is_grad_enabled():
            torch.maximum(self.max_logit_H, max_logit(q.detach(), k.detach(), self.scale), out=self.max_logit_H)
        # Fused attention wants heads of one width; without the padding it would write out all logits.
        v = F.pad(v, (0, max(0, c.qk_head_dim - c.v_head_dim))).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return y[..., : c.v_head_dim].transpose(1, 2)

    def _attend_absorbed(self, q_content: Tensor, q_rotary: Tensor, stored_BSr: Tensor, visible: Tensor) -> Tensor:
        """The same from latents alone: W_kv_b moves into the query and the output; (B, T, H, V).

        Softmax in fp32. No per-head key or value is ever formed, so a step reads R+d numbers a past token.
        """
        c = self.config
        weight = self.kv_b_proj.weight.view(c.num_attention_heads, -1, c.kv_lora_rank).to(q_content.dtype)
        w_key_HNR, w_value_HVR = weight.split((c.qk_nope_head_dim, c.v_head_dim), 1)
        q_latent = torch.einsum("bthn,hnr->bhtr", q_content, w_key_HNR)
        q = torch.cat((q_latent, q_rotary.transpose(1, 2)), -1)
        logits = (q @ stored_BSr[:, None].mT).float() * self.scale
        logits = logits.masked_fill(~visible, float("-inf"))
        if self.training and torch.is_grad_enabled():
            torch.maximum(self.max_logit_H, logits.detach().amax((0, 2, 3)), out=self.max_logit_H)
        share = logits.softmax(-1).to(q.dtype)
        mixed = share @ stored_BSr[:, None, :, : c.kv_lora_rank]
        return torch.einsum("bhtr,hvr->bthv", mixed, w_value_HVR)
