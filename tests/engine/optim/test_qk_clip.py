"""QK-Clip's algebra: logits shrink by γ, everything else keeps its bits, and no maximum ever makes a NaN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.model.attention import LatentAttention
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.optim.qk_clip import clip_factors, qk_clip_
from tests.engine.tiny import config

maxima = st.floats(-1e4, 1e4) | st.just(-math.inf)


def make(q_lora_rank=24):
    torch.manual_seed(0)
    attention = LatentAttention(config(num_attention_heads=4, q_lora_rank=q_lora_rank))
    for parameter in attention.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return attention


def logits(attention, x):
    """Unmasked softmax inputs of plain positions (no rotation), by the weights alone; (H, T, T)."""
    c = attention.config
    q = attention._queries(x)[0]
    latent, k_rotary = attention.kv_a_proj_with_mqa(x)[0].split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
    kv = attention.kv_b_proj(attention.kv_a_layernorm(latent)).unflatten(-1, (4, -1))
    k = torch.cat((kv[..., : c.qk_nope_head_dim], k_rotary[:, None].expand(-1, 4, -1)), -1)
    return torch.einsum("thd,shd->hts", q, k) * attention.scale


@settings(max_examples=60, deadline=None)
@given(st.lists(maxima, min_size=4, max_size=4), st.floats(1e-3, 1e3), st.sampled_from([24, None]))
@torch.no_grad()
def test_a_clipped_heads_logits_shrink_by_gamma_and_the_rest_keeps_its_bits(s, tau, q_lora_rank):
    attention = make(q_lora_rank)
    attention.max_logit_H.copy_(torch.tensor(s))
    x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1))
    before, weights = logits(attention, x), {n: p.clone() for n, p in attention.named_parameters()}
    gamma = clip_factors(attention.max_logit_H, tau)
    over = attention.max_logit_H > tau
    assert qk_clip_(attention, tau) == int(over.sum())

    torch.testing.assert_close(logits(attention, x), before * gamma[:, None, None], rtol=1e-4, atol=1e-5)
    query = "q_b_proj.weight" if q_lora_rank else "q_proj.weight"
    c = attention.config
    for name, parameter in attention.named_parameters():
        if name not in (query, "kv_b_proj.weight"):
            assert torch.equal(parameter, weights[name]), name
    for name in (query, "kv_b_proj.weight"):
        now, then = (w.view(4, -1, w.shape[-1]) for w in (dict(attention.named_parameters())[name], weights[name]))
        assert torch.equal(now[~over], then[~over])
        if name == "kv_b_proj.weight":
            assert torch.equal(now[:, c.qk_nope_head_dim :], then[:, c.qk_nope_head_dim :])


@settings(max_examples=60, deadline=None)
@given(st.lists(maxima, min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_gamma_is_one_at_or_under_tau_and_never_nan(s, tau):
    values = torch.tensor(s)
    gamma = clip_factors(values, tau)
    assert gamma.isfinite().all()
    assert ((gamma > 0) & (gamma <= 1)).all()
    assert torch.equal(gamma == 1, values <= tau) or bool(((values > tau) & (gamma == 1)).sum() == 0)
    torch.testing.assert_close(
        gamma * values.clamp(min=tau), torch.full_like(values, tau).where(values > tau, gamma * tau)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_maximum_that_is_no_number_stops_the_step_and_changes_nothing(bad):
    model = K2Model(config())
    optimizer = MuonClip(model, 0.1)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    model.attentions()[1].max_logit_H[1] = bad
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    with pytest.raises(UserError, match="layer 1, head 1"):
        optimizer.step()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in optimizer.state_dict().items())
