"""Decode one more token per row: the same as the model's forward through a cache, in under half of the calls.

A step's products are so small that modules, autocast and type checks around them take as long again. A decoder looks up
the weights once, computes the first projections of queries and latents together and rotates all layers with one
table. The full forward remains the specification; prompts and policy training use it and the cached forward.

Shapes: B rows, S slots, D model channels, H heads, N content and d rotary channels of a query head, V channels of a
value head, R latent channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.attention import LatentAttention
from engine.model.cache import LatentCache
from engine.model.layers import RMSNorm, SwiGLU
from engine.model.model import Block, K2Model
from engine.model.moe import MoE
from engine.model.rope import rotation
from kernels.latent_attention import rotate
from kernels.precision import wide

Map = Callable[[Tensor], Tensor]


class Decoder:
    """Decodes one batch through `model`, whose prompts are in `cache`; make a new one when weights change.

    Nothing is recorded and no gradient kept; activations are in fp32 or better. Call it in inference mode.
    """

    def __init__(self, model: K2Model, cache: LatentCache) -> None:
        self.cache = cache
        self.embedding, self.head = _weight(model.embed_tokens.weight), _weight(model.lm_head.weight)
        positions = torch.arange(cache.capacity, device=self.head.device)
        self.turns = rotation(positions, model.frequencies_P, model.magnitude)
        self.layers = [_Layer(block) for block in model.blocks]
        self.norm = _norm(model.norm)

    def step(self, ids_B: Tensor) -> Tensor:
        """Add one token per row; return the next one's logits, (B, vocabulary). ValueError if the cache is full."""
        cache, end = self.cache, self.cache.end(1)
        turn, visible = self.turns[end - 1], cache.visible(1)
        hidden_B1S = None if visible is None else ~visible[:, 0]
        x_BD = F.embedding(ids_B, self.embedding)
        for layer in self.layers:
            x_BD = layer(x_BD, turn, cache, hidden_B1S)
        cache.length = end
        return torch.mm(self.norm(x_BD), self.head.T)


class _Layer:
    """`Block` for one token per row."""

    def __init__(self, block: Block) -> None:
        self.attention = _Attention(block.self_attn, block.layer)
        self.before_attention, self.before_mlp = _norm(block.input_layernorm), _norm(block.post_attention_layernorm)
        self.mlp = _mixture(block.mlp) if isinstance(block.mlp, MoE) else _swiglu(block.mlp)

    def __call__(self, x_BD: Tensor, turn: Tensor, cache: LatentCache, hidden_B1S: Tensor | None) -> Tensor:
        x_BD = x_BD + self.attention(self.before_attention(x_BD), turn, cache, hidden_B1S)
        return x_BD + self.mlp(self.before_mlp(x_BD))


class _Attention:
    """`LatentAttention` in its absorbed form for one token per row; the query's weight includes the softmax's scale."""

    def __init__(self, attention: LatentAttention, layer: int) -> None:
        c, self.layer = attention.config, layer
        self.H, self.N, self.d, self.R = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank
        latent = _weight(attention.kv_a_proj_with_mqa.weight)
        query = _weight(attention.query_weight()) * attention.scale
        low_rank = c.q_lora_rank is not None
        self.first = torch.cat((latent, _weight(attention.q_a_proj.weight) if low_rank else query))
        self.second = _second(attention.q_a_layernorm, query) if low_rank else None
        self.latent_norm = _norm(attention.kv_a_layernorm)
        key_value = _weight(attention.kv_b_proj.weight).view(self.H, -1, self.R)
        self.key_HNR, value_HVR = key_value.split((c.qk_nope_head_dim, c.v_head_dim), 1)
        self.value_HRV = value_HVR.mT
        self.out = _weight(attention.o_proj.weight)

    def __call__(self, x_BD: Tensor, turn: Tensor, cache: LatentCache, hidden_B1S: Tensor | None) -> Tensor:
        B, R, N, H, d = x_BD.shape[0], self.R, self.N, self.H, self.d
        first = torch.mm(x_BD, self.first.T)
        q = first[:, R + d :]
        q = (q if self.second is None else self.second(q)).view(B, H, N + d)
        turned = rotate(torch.cat((q[..., N:], first[:, None, R : R + d]), 1), turn)  # queries', then the shared key's
        entry_B1r = torch.cat((self.latent_norm(first[:, None, :R]), turned[:, H:]), -1)
        stored_BSr = cache.append(self.layer, entry_B1r)
        latent_HBR = torch.bmm(q[..., :N].transpose(0, 1), self.key_HNR)
        q = torch.cat((latent_HBR.transpose(0, 1), turned[:, :H]), -1)
        logits_BHS = torch.bmm(q, stored_BSr.mT)
        if hidden_B1S is not None:
            logits_BHS.masked_fill_(hidden_B1S, float("-inf"))
        mixed_BHR = torch.bmm(logits_BHS.softmax(-1), stored_BSr[..., :R])
        y_HBV = torch.bmm(mixed_BHR.transpose(0, 1), self.value_HRV)
        return torch.mm(y_HBV.transpose(0, 1).reshape(B, -1), self.out.T)


def _weight(weight: Tensor) -> Tensor:
    """Return the weight itself, without gradient; a copy in fp32 if it is narrower."""
    return weight.detach().to(wide(weight.dtype))


def _norm(norm: RMSNorm) -> Map:
    """Return RMSNorm as x / √(‖x‖² + D·eps) · (√D · gain), with half the op's calls."""
    width = norm.weight.numel()
    gain = _weight(norm.weight) * width**0.5
    floor = gain.new_full((), (width * norm.eps) ** 0.5)

    def apply(x: Tensor) -> Tensor:
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)).mul_(gain)

    return apply


def _second(norm: RMSNorm, query: Tensor) -> Map:
    """Return the query's second projection, applied to the normalised result of its first."""
    normalised = _norm(norm)
    return lambda q: torch.mm(normalised(q), query.T)


def _swiglu(mlp: SwiGLU) -> Map:
    """Return the dense feed-forward, or the shared expert."""
    gate, up, down = (_weight(part.weight).T for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def apply(x: Tensor) -> Tensor:
        return torch.mm(F.silu(torch.mm(x, gate)).mul_(torch.mm(x, up)), down)

    return apply


def _mixture(moe: MoE) -> Map:
    """Return `MoE` as a function: the router's choice, the routed experts, the shared expert."""
    router, shared = moe.gate, _swiglu(moe.shared_experts)
    scores = _weight(router.weight).T
    gate_up, down = _weight(moe.experts.gate_up_proj), _weight(moe.experts.down_proj)

    def apply(x: Tensor) -> Tensor:
        chosen, gates = router.choose(torch.mm(x, scores).sigmoid_())
        return moe.routed(x, chosen, gates, gate_up, down).add_(shared(x))

    return apply
