"""Sizes of the released K2: parameters by block, FLOPs a token, the cache; and a counter's word for the formulas."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from engine.model.cache import LatentCache
from engine.model.flops import flops_per_token, matmuls
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from engine.model.size import cache_size, n_params
from kernels.latent_attention import BLOCK
from tests.engine.model.held import held_bytes
from tests.engine.tiny import config

SHAPE = {
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 384,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.827,
}


@pytest.fixture(scope="module")
def k2():
    return config_from_parameters(SHAPE, 163840, 4096)


def test_k2_has_exactly_the_released_number_of_parameters(k2):
    rows = {row.block: (row.total, row.active) for row in n_params(k2)}
    assert rows == {
        "input embedding": (1_174_405_120, 1_174_405_120),
        "LM head": (1_174_405_120, 1_174_405_120),
        "attention": (6_168_569_856, 6_168_569_856),
        "RMSNorm": (881_664, 881_664),
        "dense feed-forward": (396_361_728, 396_361_728),
        "router and bias": (165_173_760, 165_173_760),
        "routed experts": (1_014_686_023_680, 21_139_292_160),
        "shared experts": (2_642_411_520, 2_642_411_520),
        "sum": (1_026_408_232_448, 32_861_500_928),
    }
    assert rows["sum"][1] - rows["input embedding"][1] == 31_687_095_808


@pytest.mark.parametrize(
    ("length", "attention", "training"), [(4096, 5.1, 205.5), (32768, 40.9, 312.9), (131072, 163.7, 681.4)]
)
def test_k2s_flops_are_those_of_the_fact_sheet(k2, length, attention, training):
    f = flops_per_token(k2, length)
    assert f.linear / 2e9 == pytest.approx(31.686, abs=5e-4)
    assert f.attention / 1e9 == pytest.approx(attention, abs=0.05)
    assert f.training / 1e9 == pytest.approx(training, abs=0.05)


CASES = {
    "plain": {},
    "no q-LoRA": {"q_lora_rank": None},
    "dense only": {"first_k_dense_replace": 3},
    "two shared experts, three of six": {"n_shared_experts": 2, "num_experts_per_tok": 3},
}


def counted(model, ids):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    return counter.get_total_flops()


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_counter_sees_the_same_flops_in_the_oracles_forward(changes):
    """The eager oracle forms all T² scores where a causal sequence has T·(T + 1)/2; all else is executed as counted."""
    c = config(**changes)
    oracle = DeepseekV3ForCausalLM(
        DeepseekV3Config(**c.to_dict(), attn_implementation="eager", experts_implementation="eager")
    )
    T = 13
    f = flops_per_token(c, T)
    rotary = 3 * 2 * T  # the outer product of positions and frequencies, where a release forms it as a matrix product
    assert counted(oracle, torch.arange(T)[None]) - (f.linear * T + f.attention * T * 2 * T // (T + 1)) in range(
        rotary + 1
    )


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_counter_sees_the_same_flops_in_ours(changes):
    """A block of queries forms the scores of all keys up to its end. With gradients on: decoding has its own ways."""
    c = config(**changes, max_position_embeddings=2 * BLOCK + 2)
    T = 2 * BLOCK + 2
    f = flops_per_token(c, T)
    with FlopCounterMode(display=False) as counter:
        K2Model(c).double()(torch.arange(T)[None] % c.vocab_size)
    scores = BLOCK * BLOCK + BLOCK * 2 * BLOCK + 2 * T
    assert counter.get_total_flops() == f.linear * T + f.attention * scores * 2 // (T + 1)


def test_training_is_three_forwards(k2):
    f = flops_per_token(k2, 4096)
    assert f.forward == f.linear + f.attention
    assert f.training == 3 * f.forward


def test_every_active_matrix_is_multiplied_once_a_token():
    c = config()
    active = {row.block: row.active for row in n_params(c)}
    products = {}
    for product in matmuls(c):
        products[product.block] = products.get(product.block, 0) + product.flops // 2
    for block, weights in products.items():
        vectors = {"attention": 3 * (24 + 16), "router and bias": 2 * 6}.get(block, 0)
        assert weights == active[block] - vectors, block


def test_the_cache_holds_the_latents_and_no_more(k2):
    c = config()
    cache = LatentCache(c, rows=3, capacity=11)
    held = held_bytes(cache)
    assert held == (c.kv_lora_rank + c.qk_rope_head_dim) * 4 * 3 * 11 * c.num_hidden_layers
    assert held == cache_size(c, itemsize=4).bytes_per_token * 3 * 11
    assert cache_size(k2).bytes_per_token == 70_272
    assert cache_size(k2).mha_ratio == pytest.approx(64 * (192 + 128) / 576)
