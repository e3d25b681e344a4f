"""The weights of a model, by name and shape, without building it: what the planner counts.

The names, shapes and blocks are those of K2Model and of `n_params` (engine/model/size.py); a test compares them on the
meta device, which needs torch and, for K2, seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from engine.model.config import K2Config

BLOCKS = (
    "input embedding",
    "LM head",
    "attention",
    "RMSNorm",
    "dense feed-forward",
    "router and bias",
    "routed experts",
    "shared experts",
)
"""The kinds of parameters, in the order in which they are shown; a norm inside attention counts as attention."""
Rule = Literal["muon", "adamw", "bias"]
"""Who moves a tensor: Muon, AdamW, or the router's balance (a bias has no gradient and no state)."""


@dataclass(frozen=True)
class Weight:
    """One tensor of the model. `layer` is None outside of the layers; routed experts are stacked along axis 0."""

    name: str
    shape: tuple[int, ...]
    block: str
    layer: int | None
    rule: Rule = "muon"
    stacked: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers the tensor has."""
        return prod(self.shape)


def weights(config: K2Config) -> list[Weight]:
    """Return all tensors of a model, router biases included, in the order of the model's state."""
    D, V = config.hidden_size, config.vocab_size
    layers = [weight for layer in range(config.num_hidden_layers) for weight in layer_weights(config, layer)]
    return [
        Weight("embed_tokens.weight", (V, D), "input embedding", None, "adamw"),
        *layers,
        Weight("norm.weight", (D,), "RMSNorm", None, "adamw"),
        Weight("lm_head.weight", (V, D), "LM head", None, "adamw"),
    ]


def layer_weights(config: K2Config, layer: int) -> Iterator[Weight]:
    """Yield the tensors of one layer."""
    D, prefix = config.hidden_size, f"layers.{layer}"
    yield Weight(f"{prefix}.input_layernorm.weight", (D,), "RMSNorm", layer, "adamw")
    yield from _attention(config, f"{prefix}.self_attn", layer)
    yield Weight(f"{prefix}.post_attention_layernorm.weight", (D,), "RMSNorm", layer, "adamw")
    if layer < config.first_k_dense_replace:
        yield from _swiglu(f"{prefix}.mlp", D, config.intermediate_size, "dense feed-forward", layer)
    else:
        yield from _mixture(config, f"{prefix}.mlp", layer)


def _attention(c: K2Config, prefix: str, layer: int) -> Iterator[Weight]:
    """Yield the projections of latent attention and the norms inside it."""
    D, H, R = c.hidden_size, c.num_attention_heads, c.kv_lora_rank
    queries = H * c.qk_head_dim
    if c.q_lora_rank is None:
        yield Weight(f"{prefix}.q_proj.weight", (queries, D), "attention", layer)
    else:
        yield Weight(f"{prefix}.q_a_proj.weight", (c.q_lora_rank, D), "attention", layer)
        yield Weight(f"{prefix}.q_a_layernorm.weight", (c.q_lora_rank,), "attention", layer, "adamw")
        yield Weight(f"{prefix}.q_b_proj.weight", (queries, c.q_lora_rank), "attention", layer)
    yield Weight(f"{prefix}.kv_a_proj_with_mqa.weight", (R + c.qk_rope_head_dim, D), "attention", layer)
    yield Weight(f"{prefix}.kv_a_layernorm.weight", (R,), "attention", layer, "adamw")
    yield Weight(f"{prefix}.kv_b_proj.weight", (H * (c.qk_nope_head_dim + c.v_head_dim), R), "attention", layer)
    yield Weight(f"{prefix}.o_proj.weight", (D, H * c.v_head_dim), "attention", layer)


def _mixture(c: K2Config, prefix: str, layer: int) -> Iterator[Weight]:
    """Yield the router, the stacked routed experts and the shared expert."""
    D, E, F = c.hidden_size, c.n_routed_experts, c.moe_intermediate_size
    yield Weight(f"{prefix}.gate.weight", (E, D), "router and bias", layer)
    yield Weight(f"{prefix}.gate.e_score_correction_bias", (E,), "router and bias", layer, "bias")
    yield Weight(f"{prefix}.experts.gate_up_proj", (E, 2 * F, D), "routed experts", layer, stacked=True)
    yield Weight(f"{prefix}.experts.down_proj", (E, D, F), "routed experts", layer, stacked=True)
    yield from _swiglu(f"{prefix}.shared_experts", D, F * c.n_shared_experts, "shared experts", layer)


def _swiglu(prefix: str, width: int, hidden: int, block: str, layer: int) -> Iterator[Weight]:
    """Yield the three matrices of a feed-forward."""
    for name in ("gate_proj", "up_proj"):
        yield Weight(f"{prefix}.{name}.weight", (hidden, width), block, layer)
    yield Weight(f"{prefix}.down_proj.weight", (width, hidden), block, layer)
