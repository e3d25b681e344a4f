"""The architecture: shapes, causality, the router's rules, cached decoding, RoPE and YaRN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.model.cache import LatentCache
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.moe import Router
from engine.model.rope import inverse_frequencies, rotation, softmax_scale
from kernels.latent_attention import rotate
from tests.engine.tiny import config

IDS = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))
YARN = {
    "type": "yarn",
    "factor": 32,
    "original_max_position_embeddings": 4096,
    "beta_fast": 1,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 1,
}


@pytest.mark.parametrize("q_lora_rank", [24, None])
def test_every_weight_gets_a_finite_gradient(q_lora_rank):
    model = K2Model(config(q_lora_rank=q_lora_rank))
    logits = model(IDS)
    assert logits.shape == (2, 20, 61)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_later_token_changes_nothing_before_it():
    model = K2Model(config()).eval()
    other = IDS.clone()
    other[:, 12] = (other[:, 12] + 1) % 61
    a, b = model(IDS), model(other)
    torch.testing.assert_close(a[:, :12], b[:, :12])
    assert not torch.allclose(a[:, 12:], b[:, 12:])


def test_initial_weights_depend_on_seed_and_name_only():
    small, large = K2Model(config(), seed=3), K2Model(config(num_hidden_layers=4), seed=3)
    for name, value in small.state_dict().items():
        assert torch.equal(value, large.state_dict()[name]), name
    assert not torch.equal(K2Model(config(), seed=4).lm_head.weight, small.lm_head.weight)


@pytest.mark.parametrize("rope_scaling", [None, {**YARN, "factor": 4, "original_max_position_embeddings": 16}])
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(rope_scaling):
    model = K2Model(config(rope_scaling=rope_scaling)).eval()
    full = model(IDS)
    cache = LatentCache(model.config, 2, 20)
    parts = [model(IDS[:, :7], cache), *(model(IDS[:, i : i + 1], cache) for i in range(7, 20))]
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_left_padding_changes_nothing():
    model = K2Model(config()).eval()
    padded = torch.cat((torch.full((1, 5), 9), IDS[:1]), 1)
    cache = LatentCache(model.config, 1, 25, [5])
    torch.testing.assert_close(model(padded, cache)[:, 5:], model(IDS[:1]), rtol=1e-4, atol=1e-4)


def test_the_cache_refuses_more_than_it_has_room_for():
    model = K2Model(config()).eval()
    with pytest.raises(ValueError, match="cannot take"):
        model(IDS, LatentCache(model.config, 2, 10))


def test_maxima_and_loads_are_recorded_in_training_forwards_only():
    model = K2Model(config())
    attention, router = model.attentions()[0], model.routers()[1]
    model.eval()
    model(IDS)
    model.train()
    with torch.no_grad():
        model(IDS)
    assert attention.max_logit_H.max() == float("-inf")
    assert router.load_E.sum() == 0
    model(IDS[:1])
    first = attention.max_logit_H.clone()
    model(IDS[1:])
    assert (attention.max_logit_H >= first).all()
    whole = K2Model(config())
    whole(IDS)
    torch.testing.assert_close(attention.max_logit_H, whole.attentions()[0].max_logit_H)
    assert router.load_E.sum() == IDS.numel() * 2


def test_training_through_the_cache_records_the_same_maxima():
    plain, cached = K2Model(config(initializer_range=1.0)), K2Model(config(initializer_range=1.0))
    plain(IDS)
    cached(IDS, LatentCache(cached.config, 2, 20))
    expected = plain.attentions()[0].max_logit_H
    assert expected.isfinite().all()
    torch.testing.assert_close(cached.attentions()[0].max_logit_H, expected, rtol=1e-5, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_the_bias_chooses_but_gates_come_from_unbiased_scores(bias):
    router = Router(config())
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    router.e_score_correction_bias.copy_(torch.tensor(bias))
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(2))
    chosen, gates = router(x)
    scores = (x @ router.weight.T).sigmoid()
    biased = scores + torch.tensor(bias)
    assert torch.equal(chosen.sort(-1).values, biased.topk(2, dim=-1).indices.sort(-1).values)
    picked = scores.gather(-1, chosen)
    torch.testing.assert_close(gates, picked / picked.sum(-1, keepdim=True) * 1.4, rtol=1e-5, atol=1e-5)


def test_the_bias_moves_towards_even_load_without_drift():
    router = Router(config())
    router.load_E.copy_(torch.tensor([9, 1, 5, 5, 5, 5]))
    assert router.balance_(0.1) == pytest.approx(9 / 5)
    assert router.e_score_correction_bias.tolist() == pytest.approx([-0.1, 0.1, 0, 0, 0, 0])
    assert router.e_score_correction_bias.dtype == torch.float32
    assert router.load_E.sum() == 0
    before = router.e_score_correction_bias.clone()
    router.load_E.copy_(torch.tensor([9, 1, 5, 5, 5, 5]))
    router.balance_(0.0)
    assert torch.equal(router.e_score_correction_bias, before)


def test_the_bias_is_no_parameter_and_stays_fp32_under_autocast():
    model = K2Model(config())
    assert not any("bias" in name for name, _ in model.named_parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chosen, gates = model.routers()[1](torch.randn(4, 32).bfloat16())
    assert gates.dtype == torch.float32
    assert chosen.shape == (4, 2)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_narrower_model_keeps_frequencies_biases_and_maxima(narrow):
    model = K2Model(config())
    model(IDS)
    model.routers()[1].e_score_correction_bias.add_(torch.linspace(-0.1, 0.1, 6))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to(narrow)
    assert {p.dtype for p in model.parameters()} == {narrow}
    assert len(before) == 1 + 3 + 2 * 2
    for name, buffer in model.named_buffers():
        assert buffer.dtype == before[name].dtype, name
        assert torch.equal(buffer, before[name]), name
    model.layers["1"].half()
    assert model.routers()[1].e_score_correction_bias.dtype == torch.float32


def test_a_wider_model_has_wider_buffers_and_comes_back_unchanged():
    model = K2Model(config())
    before = model.frequencies_P.clone()
    model.double()
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float64, torch.int64}
    assert torch.equal(model.frequencies_P, before.double())
    model.bfloat16()
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32, torch.int64}
    assert torch.equal(model.frequencies_P, before)


def test_rotary_products_know_distances_only():
    frequencies = inverse_frequencies(config())
    q, k = torch.randn(8), torch.randn(8)

    def product(i, j):
        turn_i, turn_j = (rotation(torch.tensor([p]), frequencies, 1.0)[0] for p in (i, j))
        return float((rotate(q, turn_i) * rotate(k, turn_j)).sum())

    assert product(10, 3) == pytest.approx(product(27, 20), abs=1e-4)


def k2(**changes):
    shape = {"num_attention_heads": 64, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    return config(**shape, **changes)


def test_yarn_is_k2s_hard_cut():
    plain, scaled = inverse_frequencies(k2()), inverse_frequencies(k2(rope_scaling=YARN))
    ratio = (plain / scaled).round(decimals=3).tolist()
    assert ratio[:20] == [1.0] * 20
    assert ratio[20:] == [32.0] * 12
    assert softmax_scale(k2(rope_scaling=YARN)) == pytest.approx(0.1309, abs=1e-4)
    assert softmax_scale(k2()) == pytest.approx(192**-0.5)


def test_yarn_ramps_between_unequal_betas():
    scaled = inverse_frequencies(k2(rope_scaling={**YARN, "beta_fast": 32}))
    ratio = (inverse_frequencies(k2()) / scaled).tolist()
    low = math.floor(64 * math.log(4096 / (2 * math.pi * 32)) / (2 * math.log(50000)))
    assert low == 8
    assert ratio[low] == pytest.approx(1.0)
    assert ratio == sorted(ratio)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim"),
        ({"rope_scaling": {"type": "ntk"}}, "ntk"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "original_max_position_embeddings"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        config(**change)


def test_a_configuration_survives_its_dictionary_and_names_what_is_missing():
    values = config().to_dict()
    assert K2Config.from_dict(values) == config()
    with pytest.raises(UserError, match="hidden_size"):
        K2Config.from_dict({k: v for k, v in values.items() if k != "hidden_size"}, "config.json")
    with pytest.raises(UserError, match="n_group"):
        K2Config.from_dict({**values, "n_group": 8}, "config.json")
