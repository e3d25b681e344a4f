"""FP8 blocks: exact where the format can say it, within half a step elsewhere, ragged edges and zeros included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.fp8 import BLOCK, LARGEST, block_scales, dequantise, is_quantised, quantise, scale_shape

CODES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
FINITE = CODES[CODES.isfinite()]
SHAPES = [(128, 128), (256, 384), (1, 1), (130, 127), (3, 260), (129, 1)]


def stored(weight):
    scale = block_scales(weight)
    return quantise(weight, scale), scale


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [-30, 0, 12])
def test_what_the_format_can_say_comes_back_exactly(shape, power):
    random = torch.Generator().manual_seed(1)
    weight = FINITE[torch.randint(len(FINITE), shape, generator=random)]
    weight[::BLOCK, ::BLOCK] = LARGEST  # each block's scale is then the power of two
    weight = weight * 2.0**power
    codes, scale = stored(weight)
    assert scale.shape == scale_shape(shape)
    assert torch.equal(scale, torch.full_like(scale, 2.0**power))
    assert torch.equal(dequantise(codes, scale), weight)


@settings(max_examples=60)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000), st.floats(-12, 12))
def test_the_error_is_at_most_half_a_step(shape, seed, spread):
    """Three mantissa bits: 1/16 of the number, or half of the smallest step (2^-9) times the block's scale."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=random) * torch.exp2(spread * torch.rand(shape, generator=random))
    codes, scale = stored(weight)
    limit = torch.maximum(weight.abs() / 16, torch.tensor(2.0**-10) * scale.amax()) * (1 + 1e-5)
    assert ((dequantise(codes, scale) - weight).abs() <= limit).all()
    again = dequantise(codes, scale)
    assert torch.equal(quantise(again, scale).view(torch.uint8), codes.view(torch.uint8))


def test_a_block_is_scaled_by_its_own_largest_weight():
    weight = torch.ones(256, 256)
    weight[:128, :128] = 1000.0
    weight[128:, 128:] = 0.0
    codes, scale = stored(weight)
    assert scale.tolist() == [[pytest.approx(1000 / 448), pytest.approx(1 / 448)], [pytest.approx(1 / 448), 1.0]]
    assert codes.float().amax() == 448
    torch.testing.assert_close(dequantise(codes, scale), weight)


@pytest.mark.parametrize("name", ["embed_tokens", "layers.3.mlp.gate", "layers.0.self_attn.q_a_layernorm", "norm"])
def test_the_release_keeps_embedding_norms_and_router(name):
    assert not is_quantised(f"model.{name}.weight")


@pytest.mark.parametrize(
    "name", ["self_attn.kv_a_proj_with_mqa", "mlp.experts.7.up_proj", "mlp.down_proj", "mlp.shared_experts.gate_proj"]
)
def test_the_release_stores_every_projection_in_blocks(name):
    assert is_quantised(f"model.layers.3.{name}.weight")
