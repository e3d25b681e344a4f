"""Multi-head latent attention: low-rank queries, one compressed latent per token for keys and values of all heads.

Shapes: B batch, T new positions, S all positions, D model channels, H heads, N content and d rotary channels of a
query or key head, V channels of a value head, R latent channels.
"""

import torch
from torch import Tensor, nn

from engine.model.cache import LatentCache
from engine.model.config import K2Config
from engine.model.layers import Linear, RMSNorm, WideBuffers
from engine.model.rope import softmax_scale
from engine.optim.layout import Rows
from kernels.kept import as_type, records, remade
from kernels.latent_attention import latent_attention, rotate
from kernels.linear import linear_in_own_type
from kernels.max_logit import largest
from kernels.precision import operand_type, wide, without_autocast


class LatentAttention(WideBuffers):
    """MLA of DeepSeek-V3 as K2 configures it; records each head's largest logit in training while `recording`.

    `max_logit_H` holds S_max of the forwards since `reset_max_logit`, -inf if there was none (k2-facts 2.3). Forwards
    with a cache count too: reinforcement learning trains through it (engine/rollout/teacher.py).
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
        self.recording = True
        self.register_buffer("max_logit_H", torch.full((heads,), float("-inf")), persistent=False)

    @property
    def _recorded(self) -> bool:
        """Whether this forward's largest logits are recorded."""
        return self.recording and self.training and records()

    def reset_max_logit(self) -> None:
        """Reset the maxima: called once per optimizer step, even if the step is skipped."""
        self.max_logit_H.fill_(float("-inf"))

    def query_weight(self) -> nn.Parameter:
        """Return the projection that makes queries per head, rows H·(N+d), which QK-Clip scales."""
        weight = self.q_proj.weight if self.config.q_lora_rank is None else self.q_b_proj.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def clip_rows(self) -> list[Rows]:
        """Return the rows that QK-Clip scales: content rows of query and key by √γ, rotary query rows by γ.

        The rotary key is shared by all heads and stays unchanged, as do the value rows that follow a head's key rows.
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
        turn: Tensor,
        cache: LatentCache | None,
        layer: int,
        visible: Tensor | None,
        valid_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend within the sequence (cache None) or to the cached past as well; return (B, T, D).

        Queries that are not `valid_BT` are padding and do not count in S_max.
        """
        c = self.config
        q = self._queries(x_BTD)
        latent, k_rotary = self.kv_a_proj_with_mqa(x_BTD).split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        latent = self.kv_a_layernorm(latent)
        if cache is None:
            y = self._attend(q, latent, k_rotary, turn, valid_BT)
        else:
            stored = cache.append(layer, torch.cat((latent, rotate(k_rotary, turn)), -1))
            q_content, q_rotary = q.split((c.qk_nope_head_dim, c.qk_rope_head_dim), -1)
            q_rotary = rotate(q_rotary, turn[..., None, :])
            y = self._attend_absorbed(q_content, q_rotary, stored, visible, valid_BT)
        out: Tensor = self.o_proj(y.flatten(-2))
        return out

    def _queries(self, x_BTD: Tensor) -> Tensor:
        c = self.config
        if c.q_lora_rank is None:
            q: Tensor = self.q_proj(x_BTD)
        else:
            q = _expanded(self.q_b_proj, self.q_a_layernorm(self.q_a_proj(x_BTD)))
        heads: Tensor = q.unflatten(-1, (c.num_attention_heads, c.qk_head_dim))
        return heads

    def _attend(
        self, q: Tensor, latent_BTR: Tensor, k_rotary_BTd: Tensor, turn: Tensor, valid_BT: Tensor | None = None
    ) -> Tensor:
        """Attend causally with keys and values expanded per head; return (B, T, H, V). Training records S_max."""
        kv = _expanded(self.kv_b_proj, latent_BTR).unflatten(-1, (self.config.num_attention_heads, -1))
        maximum = self._recorded
        y, largest_H = latent_attention(q, kv, k_rotary_BTd, turn, self.scale, maximum=maximum, valid_BT=valid_BT)
        if largest_H is not None:
            self.max_logit_H = torch.maximum(self.max_logit_H, largest_H)  # fp32 or better, whatever the model's type
        return y

    @without_autocast
    def _attend_absorbed(
        self,
        q_content: Tensor,
        q_rotary: Tensor,
        stored_BSr: Tensor,
        visible: Tensor | None,
        valid_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend from latents alone, with W_kv_b moved into the query and the output; return (B, T, H, V).

        The softmax is in fp32 or better; products too, from the operands' own values, on a CPU and while S_max is
        recorded. No per-head key or value is formed, so a step reads R+d numbers per past token; heads and positions
        share one axis, so that all heads' products with a row's latents are one product.
        """
        c, own = self.config, q_content.dtype
        weight = self.kv_b_proj.weight.view(c.num_attention_heads, -1, c.kv_lora_rank)
        recording = self._recorded
        dtype = wide(own) if recording or weight.device.type == "cpu" else own
        q_content, q_rotary, stored, weight = (t.to(own).to(dtype) for t in (q_content, q_rotary, stored_BSr, weight))
        w_key_HNR, w_value_HVR = weight.split((c.qk_nope_head_dim, c.v_head_dim), 1)
        q_latent = torch.einsum("bthn,hnr->bhtr", q_content, w_key_HNR)
        q = torch.cat((q_latent, q_rotary.transpose(1, 2)), -1)
        logits = torch.bmm(q.flatten(1, 2), stored.mT).unflatten(1, q.shape[1:3])
        logits = logits.to(wide(q.dtype)) * self.scale
        if visible is not None:
            logits = logits.masked_fill(~visible, float("-inf"))
        if recording:
            self.max_logit_H = torch.maximum(self.max_logit_H, largest(logits.detach(), valid_BT))
        share = logits.softmax(-1).to(q.dtype)
        mixed = torch.bmm(share.flatten(1, 2), stored[..., : c.kv_lora_rank]).unflatten(1, q.shape[1:3])
        return torch.einsum("bhtr,hvr->bthv", mixed, w_value_HVR).to(own)


def _expanded(up: Linear, x: Tensor) -> Tensor:
    """Return a latent's up-projection to all heads, which a layout may have the backward make again."""
    x = as_type(x, operand_type(x))
    return remade("mla_up", up(x), linear_in_own_type, x, up.weight)
