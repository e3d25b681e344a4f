"""MuonClip against torch's own Muon and AdamW, the split of the weights, and the schedule."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muon import matrices, orthogonalised
from engine.optim.muonclip import MuonClip
from engine.optim.schedule import wsd
from tests.engine.tiny import config

IDS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))


def backward(model, step):
    ids = IDS.roll(step, 1)
    torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()


def muon_matrices(model, gradients=False):
    """Each matrix that Muon treats apart, 2-D: of the weights, or of their gradients."""
    out = []
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not name.startswith(("embed_tokens", "lm_head")):
            for part in matrices(name, parameter.grad if gradients else parameter.data):
                out += list(part.reshape(-1, *part.shape[-2:]))
    return out


def test_steps_equal_torchs_muon(monkeypatch):
    """torch keeps the momentum as an average, (1-μ) times our sum; Newton–Schulz divides any factor out again.

    torch always iterates in bf16, whose rounding would hide an error of some percent, so it is held to fp32 here.
    """
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    lr = 0.02
    model = K2Model(config())
    ours = MuonClip(model, lr, weight_decay=0.1, momentum=0.95, tau=0.0, ns_dtype=torch.float32)
    theirs = [torch.nn.Parameter(w.clone()) for w in muon_matrices(model)]
    oracle = torch.optim.Muon(theirs, lr=lr, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        backward(model, step)
        for parameter, gradient in zip(theirs, muon_matrices(model, gradients=True)):
            parameter.grad = gradient.clone()
        oracle.step()
        ours.step()
        ours.zero_grad()
        for expected, got in zip(theirs, muon_matrices(model)):
            torch.testing.assert_close(got, expected.data, rtol=1e-3, atol=1e-3 * lr)
            expected.data.copy_(got)


def test_the_rest_moves_as_torchs_adamw_at_its_own_rate():
    model = K2Model(config())
    twin = copy.deepcopy(model)
    names = [n for n, p in model.named_parameters() if p.ndim < 2 or n.startswith(("embed_tokens", "lm_head"))]
    optimizer = MuonClip(model, 0.02, weight_decay=0.1, adamw_lr_factor=0.5)
    others = dict(twin.named_parameters())
    adamw = torch.optim.AdamW([others[n] for n in names], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.2)
    assert set(optimizer.rest) == set(names)
    backward(model, 0)
    backward(twin, 0)
    optimizer.step()
    adamw.step()
    for name in names:
        torch.testing.assert_close(dict(model.named_parameters())[name], others[name], rtol=1e-5, atol=1e-7)


def test_gate_and_up_are_orthogonalised_apart():
    stack = torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(0))
    gate, up = matrices("experts.gate_up_proj", stack)
    together = orthogonalised([gate, up], 5, torch.float32)
    for part, got in zip((gate, up), together):
        for matrix, one in zip(part, got):
            torch.testing.assert_close(one, orthogonalised([matrix], 5, torch.float32)[0], rtol=1e-4, atol=1e-4)
    assert len(matrices("down_proj", stack)) == 1


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (4, 32, 32)])
def test_an_update_has_rms_near_the_target_whatever_its_shape(shape):
    update = orthogonalised([torch.randn(shape, generator=torch.Generator().manual_seed(3))], 5, torch.float32)[0]
    assert update.pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_state_goes_through_a_dictionary():
    model = K2Model(config())
    optimizer = MuonClip(model, 0.02)
    backward(model, 0)
    optimizer.step()
    optimizer.zero_grad()
    other = copy.deepcopy(model)
    twin = MuonClip(other, 0.02)
    twin.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for m, o in ((model, optimizer), (other, twin)):
        backward(m, 1)
        o.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(UserError, match="momentum of"):
        twin.load_state_dict({})


def test_clipping_bounds_the_logits_of_the_next_forward():
    model = K2Model(config(initializer_range=1.0))
    optimizer = MuonClip(model, 1e-6, tau=2.0)
    backward(model, 0)
    report = optimizer.step()
    optimizer.zero_grad()
    assert report["max_logit"] > 2.0
    assert report["clipped_heads"] > 0
    backward(model, 0)
    assert max(float(a.max_logit_H.max()) for a in model.attentions()[:1]) <= 2.0 * 1.05


SCHEDULE = {"peak": 1.0, "decayed": 0.1, "final": 0.035}


@settings(max_examples=50, deadline=None)
@given(*[st.integers(0, 30)] * 4)
def test_wsd_rises_holds_falls_and_ends_where_asked(warmup, stable, decay, anneal):
    phases = {"warmup": warmup, "stable": stable, "decay": decay, "anneal": anneal}
    rates = [wsd(step, **SCHEDULE, **phases) for step in range(sum(phases.values()))]
    top = warmup + stable
    assert rates[:top] == sorted(rates[:top])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(0 < rate <= 1.0 for rate in rates)
    if warmup:
        assert rates[warmup - 1] == 1.0
    assert rates[warmup:top] == [1.0] * stable
    if decay:
        assert rates[top + decay - 1] == pytest.approx(0.1)
    if anneal:
        assert rates[-1] == pytest.approx(0.035)


def test_the_papers_decay_values():
    """2e-4 → 2e-5 by cosine from 10T to 15.5T tokens: 1.86e-4 at 11T, 1.1e-4 at 12.75T, 2.36e-5 at 15T."""
    at = {
        t: wsd(int(t * 100) - 1, peak=2e-4, warmup=0, stable=1000, decay=550, anneal=40, decayed=2e-5, final=7e-6)
        for t in (11, 12.75, 15)
    }
    assert at == {
        11: pytest.approx(1.86e-4, rel=0.01),
        12.75: pytest.approx(1.1e-4, rel=0.01),
        15: pytest.approx(2.36e-5, rel=0.01),
    }
