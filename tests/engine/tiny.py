"""A model small enough to build in every test."""

from dataclasses import replace

import torch

from engine.model.config import K2Config

CONFIG = K2Config(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_shared_experts=1,
    first_k_dense_replace=1,
    routed_scaling_factor=1.4,
    max_position_embeddings=64,
    initializer_range=0.2,
)


YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 1.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def config(**changes):
    return replace(CONFIG, **changes)


def recorded(model):
    """S_max by layer and head, and the experts' loads, which are forgotten."""
    loads = torch.stack([router.load_E.clone() for router in model.routers().values()])
    maxima = torch.stack([attention.max_logit_H for attention in model.attentions()])
    for attention in model.attentions():
        attention.reset_max_logit()
    for router in model.routers().values():
        router.load_E.zero_()
    return maxima, loads


DECODED = {
    "plain": {},
    "no q-LoRA": {"q_lora_rank": None},
    "dense only": {"first_k_dense_replace": 3},
    "YaRN": {"rope_scaling": YARN},
    "v wider than q and k": {"qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 16},
}
"""Shapes that are decoded: what is changed in `config` for each."""
