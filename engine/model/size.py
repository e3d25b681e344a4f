"""Count the parameters of a configuration by block, in total and active for one token."""

from collections import defaultdict
from dataclasses import dataclass

import torch

from engine.model.config import K2Config
from engine.model.model import K2Model

BLOCKS = (
    ("embed_tokens", "input embedding"),
    ("lm_head", "LM head"),
    (".experts.", "routed experts"),
    ("shared_experts", "shared experts"),
    (".mlp.gate.", "router and bias"),
    (".mlp.", "dense feed-forward"),
    ("input_layernorm", "RMSNorm"),
    ("post_attention_layernorm", "RMSNorm"),
    ("self_attn", "attention"),
    ("norm", "RMSNorm"),
)
"""The first match wins. A norm inside attention counts as attention, as in k2-facts 1.4."""


@dataclass(frozen=True)
class SizeRow:
    """One block: its parameters (including router biases) and those that one token's forward uses."""

    block: str
    total: int
    active: int


def n_params(config: K2Config) -> list[SizeRow]:
    """Return the table by block, with a last row "sum"; built on the meta device, so it takes no memory at any size."""
    with torch.device("meta"):
        model = K2Model(config, seed=None)
    totals: dict[str, int] = defaultdict(int)
    for name, tensor in model.state_dict().items():
        block = next(title for part, title in BLOCKS if part in name)
        totals[block] += tensor.numel()
    k, E = config.num_experts_per_tok, config.n_routed_experts
    rows = [
        SizeRow(block, totals[block], totals[block] * k // E if block == "routed experts" else totals[block])
        for block in dict.fromkeys(title for _, title in BLOCKS)
        if totals[block]
    ]
    return [*rows, SizeRow("sum", sum(row.total for row in rows), sum(row.active for row in rows))]


@dataclass(frozen=True)
class CacheSize:
    """The decoding cache: numbers per token and layer, bytes per token over all layers, and MHA's multiple."""

    width: int
    bytes_per_token: int
    mha_ratio: float


def cache_size(config: K2Config, itemsize: int = 2) -> CacheSize:
    """Return the size of the latent cache, and how many times larger multi-head attention's would be (k2-facts 1.2)."""
    width = config.kv_lora_rank + config.qk_rope_head_dim
    heads = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return CacheSize(width, width * itemsize * config.num_hidden_layers, heads / width)
