"""QK-Clip's algebra: logits shrink to τ, everything else keeps its bits, and no maximum ever makes a NaN.

Shapes: C cases, H heads, R rows of a head.
"""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.errors import UserError
from engine.model.attention import LatentAttention
from engine.model.model import K2Model
from engine.optim.head_logits import HeadLogits
from engine.optim.layout import Rows
from engine.optim.muonclip import MuonClip
from engine.optim.qk_clip import clip_factors, qk_clip_, read_maxima
from engine.parallel.layout import Part
from tests.engine.tiny import config

H = 4
TINY = {"num_attention_heads": H, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3, "hidden_size": 8}


class Plain(nn.Module):
    """MHA or GQA without its forward, biases included."""

    def __init__(self, kv_heads):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 4 * heads) for heads in (H, kv_heads, kv_heads))
        self.logits = HeadLogits(self.q_proj, self.k_proj, H, kv_heads)

    def scores(self, x_TD):
        q, k = (p(x_TD).unflatten(-1, (-1, 4)) for p in (self.q_proj, self.k_proj))
        return torch.einsum("the,she->hts", q, k.repeat_interleave(H // k.shape[1], dim=1)) / 2


class Latent(nn.Module):
    """MLA, with the logits of plain positions (no rotation) by the weights alone."""

    def __init__(self, q_lora_rank):
        super().__init__()
        self.logits = LatentAttention(config(**TINY, q_lora_rank=q_lora_rank))
        for parameter in self.logits.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5)

    def scores(self, x_TD):
        a, c = self.logits, self.logits.config
        latent, k_rotary = a.kv_a_proj_with_mqa(x_TD).split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        kv = a.kv_b_proj(a.kv_a_layernorm(latent)).unflatten(-1, (H, -1))
        k = torch.cat((kv[..., : c.qk_nope_head_dim], k_rotary[:, None].expand(-1, H, -1)), -1)
        return torch.einsum("the,she->hts", a._queries(x_TD[None])[0], k) * a.scale


MAKERS = {
    "mha": lambda: Plain(H),
    "gqa": lambda: Plain(2),
    "mqa": lambda: Plain(1),
    "mla": lambda: Latent(None),
    "mla_q_lora": lambda: Latent(6),
}


def made(kind, dtype=torch.float32):
    torch.manual_seed(0)
    return MAKERS[kind]().to(dtype)


def scaled_rows(kind, model):
    """Name → heads → the rows that may change; written down here by hand, not taken from the layout."""
    if kind.startswith("mla"):
        c = model.logits.config
        query = f"logits.q_{'b_' if c.q_lora_rank else ''}proj.weight"
        return {query: (6, 6), "logits.kv_b_proj.weight": (7, 4)}  # rows of a head, of which the first may change
    names = ["q_proj.weight", "q_proj.bias"] + (["k_proj.weight", "k_proj.bias"] if kind == "mha" else [])
    return dict.fromkeys(names, (4, 4))


TAU = 10.0
ULP = 2.0**-20  # of TAU in fp32, the type of the maxima
special = st.sampled_from([TAU, TAU - ULP, TAU + ULP, 0.0, -0.0, -1e-30, -math.inf, -1e38, 1e38, 3e38, 1e-30])
maxima = special | st.floats(-1e4, 1e4, width=32) | st.floats(TAU, 2.0**126, width=32)
CASES = 64
"""Sets of four heads' maxima in one example."""


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("weights", ["fp32", "bf16 with masters"])
@settings(max_examples=16)
@given(data=st.data())
def test_only_heads_over_tau_move_and_no_maximum_makes_a_nan(kind, weights, data):
    """5 layouts × 2 kinds of weight × 16 examples of Hypothesis, 160 in all, each of 64 cases: 10,240 cases.

    Hypothesis draws 24 maxima and a seed for an example; torch's generator with that seed picks the 4 heads' maxima of
    each case from the 24. Without gradients a step moves nothing but what QK-Clip clips.
    """
    pool = torch.tensor(data.draw(st.lists(maxima, min_size=24, max_size=24)))
    pick = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    cases_CH = pool[torch.randint(len(pool), (CASES, H), generator=pick)]
    model = made(kind, torch.float32 if weights == "fp32" else torch.bfloat16)
    optimizer = MuonClip(model, 0.0, tau=TAU)
    named = dict(model.named_parameters())
    start = {name: optimizer.masters[name].detach().clone() for name in named}
    masters, copies = ({name: [] for name in named} for _ in range(2))
    for s_H in cases_CH:
        torch._foreach_copy_([optimizer.masters[name].detach() for name in named], list(start.values()))
        model.logits.max_logit_H = s_H.clone()
        optimizer.step()
        for name, parameter in named.items():
            masters[name].append(optimizer.masters[name].detach().clone())
            copies[name].append(parameter.detach().clone())

    over_CH, movable = cases_CH > TAU, scaled_rows(kind, model)
    for name, before in start.items():
        after_C = torch.stack(masters[name])
        assert torch.equal(torch.stack(copies[name]), after_C.to(named[name].dtype))
        if name not in movable:
            assert torch.equal(after_C, before.expand_as(after_C))
            continue
        per_head, count = movable[name]
        now = after_C.unflatten(1, (H, per_head))
        then = before.unflatten(0, (H, per_head)).expand_as(now)
        assert now.isfinite().all()
        assert torch.equal(now[~over_CH], then[~over_CH])
        assert torch.equal(now[:, :, count:], then[:, :, count:])
        assert (now[over_CH][:, :count].abs() <= then[over_CH][:, :count].abs()).all()
        far_CH = cases_CH > 1.001 * TAU  # nearer to it γ may round to 1
        assert (now[far_CH][:, :count].abs() < then[far_CH][:, :count].abs()).all()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_with_rate_0_the_logit_of_a_clipped_head_is_tau_by_the_fp32_masters(kind, dtype):
    model = made(kind, dtype)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))

    def scores():
        by_masters = made(kind)
        by_masters.load_state_dict({name: optimizer.masters[name] for name, _ in model.named_parameters()})
        return by_masters.scores(x)

    optimizer = MuonClip(model, 0.0)
    before = scores()
    s_H = before.amax((1, 2))
    tau = float(s_H.sort().values[1:3].mean())
    assert tau > 0
    model.logits.max_logit_H = s_H.clone()
    optimizer.tau = tau
    assert optimizer.step()["clipped_heads"] == int((s_H > tau).sum()) == 2
    after = scores()
    over = s_H > tau
    torch.testing.assert_close(after[over].amax((1, 2)), torch.full((2,), tau), rtol=1e-5, atol=0)
    torch.testing.assert_close(after, before * clip_factors(s_H, tau)[:, None, None], rtol=1e-4, atol=1e-5)
    assert torch.equal(after[~over], before[~over]) or kind.startswith("mla")  # there other heads' sums are regrouped


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_bf16_without_masters_comes_within_1_percent_and_warns(kind):
    model = made(kind, torch.bfloat16)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))

    def exact():
        """Logits of the very weights, computed in fp64: the rounding of a bf16 forward is not the clip's."""
        twin = made(kind, torch.float64)
        twin.load_state_dict(model.state_dict())
        return twin.scores(x.double())

    s_H = exact().amax((1, 2))
    tau = float(s_H.max()) / 3
    model.logits.max_logit_H = s_H.float()
    with pytest.warns(UserWarning, match="without fp32 masters"):
        optimizer = MuonClip(model, 0.0, tau=tau, masters=False)
    optimizer.step()
    over = s_H > tau
    torch.testing.assert_close(
        exact().amax((1, 2))[over], torch.full((int(over.sum()),), tau, dtype=torch.float64), rtol=0.01, atol=0
    )


def test_one_head_over_tau_beside_a_negative_maximum_stays_finite():
    """Megatron-LM#7517: there γ = min(1, τ/S) is negative for the other head, and its root NaN."""
    model = made("mla_q_lora")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.logits.max_logit_H = torch.tensor([150.0, -3.0, 20.0, -math.inf])
    assert MuonClip(model, 0.0, tau=100.0).step()["clipped_heads"] == 1
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        if name in scaled_rows("mla_q_lora", model):
            per_head, _ = scaled_rows("mla_q_lora", model)[name]
            now, then = parameter.unflatten(0, (H, per_head)), before[name].unflatten(0, (H, per_head))
            assert torch.equal(now[1:], then[1:])
            assert not torch.equal(now[0], then[0])


@settings(max_examples=200)
@given(st.lists(maxima, min_size=1, max_size=8), st.floats(2.0**-10, 2.0**10, width=32))
def test_gamma_is_tau_over_s_above_tau_and_exactly_1_elsewhere(s, tau):
    values = torch.tensor(s)
    gamma = clip_factors(values, tau)
    over = values > tau
    assert ((gamma >= 0) & (gamma <= 1)).all()
    assert (gamma[~over] == 1).all()
    torch.testing.assert_close(gamma[over].double(), tau / values[over].double(), rtol=1e-6, atol=1e-44)


def test_a_layer_can_share_the_factor_of_its_largest_head():
    model = made("mha")
    before = model.q_proj.weight.detach().clone()
    model.logits.max_logit_H = torch.tensor([1.0, 40.0, -2.0, 5.0])
    assert MuonClip(model, 0.0, tau=10.0, clip_per="layer").step()["clipped_heads"] == H
    torch.testing.assert_close(model.q_proj.weight.data, before * 0.5)


@pytest.mark.parametrize("tau", [0.0, math.inf])
def test_tau_0_or_infinite_switches_it_off(tau):
    model = made("mha")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.logits.max_logit_H = torch.full((H,), 1e9)
    report = MuonClip(model, 0.0, tau=tau).step()
    assert report["max_logit"] == pytest.approx(1e9)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_maximum_that_is_no_number_stops_the_step_and_changes_nothing(bad):
    part = Part(layers=(0, 3), embeds=True, heads=True, experts=range(config().n_routed_experts))  # of a pipeline
    model = K2Model(config(num_hidden_layers=4), part=part)
    optimizer = MuonClip(model, 0.1)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    model.attentions()[1].max_logit_H[1] = bad
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    with pytest.raises(UserError, match=r"layers\.3\.self_attn, head 1"):
        optimizer.step()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in optimizer.state_dict().items())


@pytest.mark.parametrize("kind", ["mha", "mla"])
def test_a_nan_survives_the_maximum_over_micro_batches(kind):
    """One micro-batch with a NaN, before or after good ones: the step must hear of it."""
    for bad in range(3):
        model = made(kind).train()
        for micro in range(3):
            x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(micro))
            if micro == bad:
                x[0, 2, 3] = math.nan
            record(kind, model, x)
        with pytest.raises(UserError, match="the largest attention logit is nan"):
            read_maxima([model.logits], ["logits"])


def record(kind, model, x_BTD):
    if kind == "mha":
        q, k = (p(x_BTD).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (model.q_proj, model.k_proj))
        model.logits.record(q, k, 0.5)
    else:
        still = torch.ones(x_BTD.shape[1], 1, dtype=torch.complex64)
        model.logits(x_BTD, still, None, 0, None)


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_the_recorder_keeps_the_exact_causal_maximum_over_micro_batches(kind):
    model = made(kind).train()
    maxima = []
    for seed in range(3):
        x_BTD = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(seed))
        q, k = (p(x_BTD).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (model.q_proj, model.k_proj))
        model.logits.record(q, k, 0.5)
        seen = torch.ones(5, 5, dtype=torch.bool).tril()
        maxima.append(model.scores(x_BTD[0]).masked_fill(~seen, -math.inf).amax((1, 2)))
    torch.testing.assert_close(model.logits.max_logit_H, torch.stack(maxima).amax(0), rtol=1e-5, atol=1e-6)
    largest = model.logits.max_logit_H
    with torch.no_grad():
        model.logits.record(100 * q, k, 0.5)
    assert torch.equal(model.logits.max_logit_H, largest)
    model.logits.reset_max_logit()
    assert (model.logits.max_logit_H == -math.inf).all()


def test_a_layout_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="16 query and 12 key rows do not divide into 4 and 4 heads"):
        HeadLogits(nn.Linear(8, 16), nn.Linear(8, 12), 4)
    with pytest.raises(UserError, match="correct heads or kv_heads"):
        HeadLogits(nn.Linear(8, 16), nn.Linear(8, 12), 4, 3)


def test_a_fused_projection_is_clipped_from_where_its_block_starts():
    """Rows of values before the queries: `start` skips them."""

    class Fused:
        max_logit_H = torch.tensor([1.0, 20.0, 1.0, 1.0])

        def reset_max_logit(self):
            pass

        def clip_rows(self):
            return [Rows(fused, 4, 0, 4, 1.0, start=8)]

    fused = nn.Parameter(torch.ones(8 + 16, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qk_clip_(Fused(), 10.0)
    assert (fused[12:16] == 0.5).all()
    assert (fused[:12] == 1).all()
    assert (fused[16:] == 1).all()


def test_an_fp64_model_is_clipped_in_fp64():
    model = made("mha", torch.float64)
    expected = model.q_proj.weight.detach().clone()
    expected[4:8] *= 3.0**-0.5
    model.logits.max_logit_H = torch.tensor([1.0, 30.0, -2.0, 5.0], dtype=torch.float64)
    MuonClip(model, 0.0, tau=10.0).step()
    torch.testing.assert_close(model.q_proj.weight.detach(), expected, rtol=1e-14, atol=0)


def clipped(model):
    """The weights that a step clips, by name, with the factor between the new and the old."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MuonClip(model, 0.0, tau=10.0)
    model.logits.max_logit_H = torch.full((H,), 40.0)
    assert optimizer.step()["clipped_heads"] == H
    return {name: p.detach() / before[name] for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def load(model):
    """New parameters in place of the old, as checkpoints are loaded without a copy."""
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def replace_weight(model):
    attention = model if isinstance(model, Plain) else model.logits
    projection = attention.q_proj if hasattr(attention, "q_proj") else attention.q_b_proj
    projection.weight = nn.Parameter(projection.weight.detach().clone())


def replace_projection(model):
    for attention in (model, model.logits):
        for name, module in list(attention.named_children()):
            if name in ("q_proj", "q_b_proj"):
                setattr(attention, name, copy.deepcopy(module))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("change", [load, replace_weight])
def test_weights_replaced_before_the_optimizer_is_made_are_clipped_in_the_place_of_the_old(kind, change):
    plain, changed = made(kind), made(kind)
    change(changed)
    expected, actual = clipped(plain), clipped(changed)
    assert set(actual) == set(expected) == set(scaled_rows(kind, plain))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("change", [load, replace_weight, replace_projection])
def test_weights_replaced_under_the_optimizer_are_refused_before_anything_moves(kind, change):
    model = made(kind)
    optimizer = MuonClip(model, 0.1, tau=10.0)
    change(model)
    model.logits.max_logit_H = torch.full((H,), 40.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(UserError, match="layer 0: QK-Clip would scale .* make their recorder and the optimizer afresh"):
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert optimizer.steps == 0


def test_a_recorder_beside_a_projection_that_has_left_the_model_is_refused():
    model = made("mha")
    model.k_proj = nn.Linear(8, 16)
    with pytest.raises(UserError, match=r"shape \(16, 8\) that is not both in the model and moved"):
        MuonClip(model, 0.1)
    MuonClip(model, 0.1, tau=0)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_frozen_projection_is_refused(kind):
    model = made(kind)
    for name in scaled_rows(kind, model):
        model.get_parameter(name).requires_grad_(False)
        with pytest.raises(UserError, match=r"layer 0: QK-Clip would scale .* that is frozen; unfreeze it"):
            MuonClip(model, 0.1)
        MuonClip(model, 0.1, tau=0)
        model.get_parameter(name).requires_grad_(True)
    MuonClip(model, 0.1)
