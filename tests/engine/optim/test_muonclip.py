"""MuonClip as a whole: which weights go where, masters, telemetry, what it refuses, and resuming."""

import copy
import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.adamw import STATE, AdamW
from engine.optim.groups import is_muon
from engine.optim.head_logits import HeadLogits
from engine.optim.idle import IDLE_STEPS
from engine.optim.muonclip import MuonClip
from tests.engine.optim.oracle import backward
from tests.engine.tiny import config
from tests.project import ROOT

FP32 = {"ns_dtype": torch.float32}


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


def test_with_no_weight_for_muon_it_is_adamw_with_clipping():
    model = K2Model(config())
    twin = copy.deepcopy(model)
    optimizer = MuonClip(model, 0.01, is_muon=lambda *_: False, tau=1e9)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(2):
        backward(model, step)
        backward(twin, step)
        optimizer.step()
        adamw.step()
        optimizer.zero_grad()
        adamw.zero_grad()
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    optimizer.tau = 0.5
    backward(model, 2)
    assert optimizer.step()["clipped_heads"] > 0


class Foreign(nn.Module):
    """A model with other names: embeddings by their module, a head tied to one, a bias, a convolution if asked."""

    def __init__(self, conv=False, norm=None, norm_name="q_norm"):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(5, 8)
        self.q_proj, self.k_proj = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.experts = nn.Parameter(torch.zeros(3, 8, 8))
        self.score = nn.Linear(8, 11, bias=False)
        self.score.weight = self.wte.weight
        self.frozen = nn.Parameter(torch.zeros(4, 4), requires_grad=False)
        if conv:
            self.conv = nn.Conv1d(8, 8, 3)
        if norm is not None:
            self.add_module(norm_name, norm)
        self.logits = HeadLogits(self.q_proj, self.k_proj, 2)


def test_a_foreign_models_weights_go_where_they_belong():
    optimizer = MuonClip(Foreign(), 0.1)
    assert set(optimizer.muon) == {"q_proj.weight", "k_proj.weight", "experts"}
    assert set(optimizer.rest) == {"wte.weight", "wpe.weight", "q_proj.bias"}
    assert len(optimizer.attentions) == 1
    only_q = MuonClip(Foreign(), 0.1, is_muon=lambda name, p: name.startswith("q_proj") and p.ndim == 2)
    assert set(only_q.muon) == {"q_proj.weight"}
    assert "experts" in only_q.rest
    assert not any("logits" in name for name in Foreign().state_dict())


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"conv.weight has shape \(8, 8, 3\)"):
        MuonClip(Foreign(conv=True), 0.1)
    MuonClip(Foreign(conv=True), 0.1, is_muon=lambda name, p: p.ndim == 2)
    with pytest.raises(UserError, match="q_norm normalises queries or keys"):
        MuonClip(Foreign(norm=nn.LayerNorm(4)), 0.1)
    MuonClip(Foreign(norm=nn.LayerNorm(4)), 0.1, tau=0)
    MuonClip(Foreign(norm=nn.Identity()), 0.1)
    for what, value in (("coefficients", "newton"), ("clip_per", "heads")):
        with pytest.raises(UserError, match=f"{what} '{value}' is unknown; use "):
            MuonClip(Foreign(), 0.1, **{what: value})
    with pytest.raises(UserError, match="put a HeadLogits beside the projections"):
        MuonClip(nn.Sequential(nn.Linear(4, 4)), 0.1)
    assert MuonClip(nn.Sequential(nn.Linear(4, 4)), 0.1, tau=math.inf).step()["max_logit"] == -math.inf


QK_NORMS = (  # as the models named have them
    *("q_norm", "k_norm"),  # Qwen3, OLMo 2, Gemma 3, timm
    *("q_layernorm", "k_layernorm"),  # Phi, Persimmon, StableLM
    *("q_ln", "k_ln"),  # MPT, ESM C
    *("ln_q", "ln_k", "q_layer_norm", "k_layer_norm", "layernorm_q", "layernorm_k", "norm_q", "norm_k"),
    *("query_norm", "key_norm", "query_layernorm", "key_layer_norm", "norm_key", "qk_norm", "qk_layernorm"),
)


@pytest.mark.parametrize("name", QK_NORMS)
def test_a_norm_after_the_query_or_key_projection_is_refused_by_its_name(name):
    with pytest.raises(UserError, match=f"{name} normalises queries or keys"):
        MuonClip(Foreign(norm=nn.LayerNorm(4), norm_name=name), 0.1)


@pytest.mark.parametrize("name", ["q_a_layernorm", "kv_a_layernorm", "input_layernorm", "ln_1", "norm"])
def test_a_norm_before_the_projection_is_not(name):
    MuonClip(Foreign(norm=nn.LayerNorm(4), norm_name=name), 0.1)


@pytest.mark.parametrize("name", ["lm_head", "head", "embed_out", "output_projection", "score", "classifier"])
def test_a_head_of_a_known_name_is_adamws_and_of_another_is_muons_by_default(name):
    class Headed(Foreign):
        def __init__(self, name):
            super().__init__()
            self.add_module(name, nn.Linear(8, 11))

    assert {f"{name}.weight", f"{name}.bias"} <= set(MuonClip(Headed(name), 0.1).rest)
    assert "to_logits.weight" in MuonClip(Headed("to_logits"), 0.1).muon
    chosen = MuonClip(Headed("to_logits"), 0.1, is_muon=lambda n, p: is_muon(n, p) and not n.startswith("to_logits"))
    assert "to_logits.weight" in chosen.rest
    assert "q_proj.weight" in chosen.muon


@pytest.mark.parametrize("shape", [(7, 8), (3, 7, 8)])
def test_gate_and_up_in_one_are_refused_where_their_rows_do_not_halve(shape):
    model = Foreign()
    model.gate_up_proj = nn.Parameter(torch.zeros(shape))
    with pytest.raises(UserError, match="gate_up_proj has shape .*, whose second-to-last axis is odd"):
        MuonClip(model, 0.1)
    assert "gate_up_proj" in MuonClip(model, 0.1, is_muon=lambda n, p: is_muon(n, p) and n != "gate_up_proj").rest
    model.gate_up_proj = nn.Parameter(torch.zeros(*shape[:-2], 6, 8))
    assert "gate_up_proj" in MuonClip(model, 0.1).muon


@pytest.mark.parametrize(("features", "width"), [(6, 8), (4, 8), (8, 4), (8, 8)])
@pytest.mark.parametrize("linear", [False, True])
def test_gate_and_up_in_another_layout_are_refused_where_the_sibling_shows_it(features, width, linear):
    def model(gate_up, down):
        made = Foreign()
        made.gate_up_proj = nn.Parameter(torch.zeros(gate_up))
        made.down_proj = nn.Linear(*down[::-1], bias=False) if linear else nn.Parameter(torch.zeros(3, *down))
        return made

    assert "gate_up_proj" in MuonClip(model((3, 2 * features, width), (width, features)), 0.1).muon
    other = model((3, width, 2 * features), (features, width))
    with pytest.raises(UserError, match=r"gate_up_proj has shape .* beside down_proj of shape"):
        MuonClip(other, 0.1)
    assert "gate_up_proj" in MuonClip(other, 0.1, is_muon=lambda n, p: is_muon(n, p) and n != "gate_up_proj").rest


def test_the_next_forward_has_a_clipped_heads_logits_at_tau():
    """Through the whole model, rotation and causal mask included; the first layer's input is still the same."""
    model = K2Model(config(initializer_range=1.0))
    optimizer = MuonClip(model, 0.0, tau=2.0)
    backward(model, 0)
    heads = [attention.max_logit_H.tolist() for attention in model.attentions()]
    report = optimizer.step()
    optimizer.zero_grad()
    assert optimizer.max_logits == heads
    assert report["max_logit"] == max(map(max, heads)) > 2.0
    assert report["clipped_heads"] == sum(s > 2.0 for layer in heads for s in layer)
    assert all((attention.max_logit_H == -math.inf).all() for attention in model.attentions())
    backward(model, 0)
    assert min(heads[0]) > 2.0
    assert model.attentions()[0].max_logit_H.tolist() == pytest.approx([2.0] * len(heads[0]), rel=1e-5)


def test_the_first_and_last_clipped_step_are_kept_over_a_resume():
    model = Foreign()
    optimizer = MuonClip(model, 0.0, tau=10.0)
    seen = []
    for s in (1.0, 20.0, 3.0, 11.0, 5.0):
        model.logits.max_logit_H = torch.tensor([s, -1.0])
        report = optimizer.step()
        seen.append((report["clipped_heads"], report["first_clipped_step"], report["last_clipped_step"]))
    assert seen == [(0, 0, 0), (1, 2, 2), (0, 2, 2), (1, 2, 4), (0, 2, 4)]
    twin = MuonClip(model, 0.0, tau=10.0)
    twin.load_state_dict(optimizer.state_dict())
    assert (twin.steps, twin.first_clipped, twin.last_clipped) == (5, 2, 4)


def test_experts_without_tokens_are_counted_over_a_resume():
    model = Foreign()
    optimizer = MuonClip(model, 0.0, tau=0, **FP32)

    def step(busy):
        model.experts.grad = torch.zeros_like(model.experts)
        model.experts.grad[busy, 1, 2] = 1e-10
        return optimizer.step()["idle_experts"]

    assert [step([0, 1, 2])] + [step([0]) for _ in range(IDLE_STEPS - 1)] == [0] * IDLE_STEPS
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    optimizer = MuonClip(model, 0.0, tau=0, **FP32)
    optimizer.load_state_dict(state)
    assert step([0]) == 2
    assert step([0, 2]) == 1
    model.experts.grad = None
    assert optimizer.step()["idle_experts"] == 1


def test_bf16_weights_are_their_masters_rounded_and_follow_the_fp32_run():
    """Masters take the very steps that fp32 weights take on the same gradients, clipping included."""
    narrow = K2Model(config()).to(torch.bfloat16)
    wide = copy.deepcopy(narrow).float()
    ours, theirs = MuonClip(narrow, 0.02, tau=2.0, **FP32), MuonClip(wide, 0.02, tau=2.0, **FP32)
    for step in range(3):
        backward(narrow, step)
        for (name, p), q in zip(narrow.named_parameters(), wide.parameters()):
            q.grad = p.grad.float()
            assert q.grad is not None, name
        for mine, other in zip(narrow.attentions(), wide.attentions()):
            other.max_logit_H = mine.max_logit_H.clone()
        assert ours.step()["clipped_heads"] == theirs.step()["clipped_heads"] > 0
        ours.zero_grad()
        for (name, p), q in zip(narrow.named_parameters(), wide.named_parameters()):
            assert torch.equal(ours.masters[name], q[1]), name
            assert torch.equal(p, q[1].to(torch.bfloat16)), name


def test_narrow_weights_without_masters_are_warned_about_and_move():
    model = K2Model(config()).to(torch.bfloat16)
    with pytest.warns(UserWarning, match="without fp32 masters"):
        optimizer = MuonClip(model, 0.02, masters=False)
    before = model.lm_head.weight.detach().clone()
    backward(model, 0)
    optimizer.step()
    assert not torch.equal(model.lm_head.weight, before)
    assert all(p.isfinite().all() for p in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MuonClip(K2Model(config()), 0.02, masters=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_through_a_dictionary(dtype):
    model = K2Model(config()).to(dtype)
    optimizer = MuonClip(model, 0.02, tau=2.0, per_head=True)
    backward(model, 0)
    optimizer.step()
    optimizer.zero_grad()
    other = copy.deepcopy(model)
    twin = MuonClip(other, 0.02, tau=2.0, per_head=True)
    twin.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for m, o in ((model, optimizer), (other, twin)):
        backward(m, 1)
        o.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    states = [o.state_dict() for o in (optimizer, twin)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(UserError, match="momentum of"):
        twin.load_state_dict({})
    with pytest.raises(UserError, match="count of clipped steps"):
        twin.load_state_dict({name: value for name, value in states[0].items() if name != "clipped"})


def test_a_state_without_moments_of_a_weight_takes_the_old_ones_away():
    model = K2Model(config())
    optimizer = MuonClip(model, 0.02)
    start = {name: value.clone() for name, value in optimizer.state_dict().items()}
    assert not any(name.startswith("adamw/") for name in start)
    backward(model, 0)
    optimizer.step()
    assert any(name.startswith("adamw/") for name in optimizer.state_dict())
    optimizer.load_state_dict(start)
    after = optimizer.state_dict()
    assert after.keys() == start.keys()
    assert all(torch.equal(value, start[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("muon/", lambda t: None, "momentum of .* is missing"),
        ("muon/", lambda t: t[:1], r"momentum of .* but the model asks for torch.float32 of shape"),
        ("muon/", lambda t: t.double(), "momentum of .* is torch.float64"),
        ("adamw/", lambda t: None, "exp_avg of .* is missing"),
        ("adamw/", lambda t: t.flatten()[:1], "exp_avg of .* asks for"),
        ("idle/", lambda t: t[:1], "count of idle steps of .* asks for"),
        ("clipped", lambda t: t[:2], "the count of clipped steps is .* asks for"),
        ("clipped", lambda t: t.float(), "the count of clipped steps is torch.float32"),
        ("muon/stranger", lambda t: torch.zeros(2), "muon/stranger belongs to no weight"),
        ("adamw/stranger/step", lambda t: torch.zeros(()), "adamw/stranger/step belongs to no weight"),
        ("elsewhere", lambda t: torch.zeros(()), "elsewhere belongs to no weight"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(part, change, says):
    model = K2Model(config())
    optimizer = MuonClip(model, 0.02)
    backward(model, 0)
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state_dict().items()}
    damaged = {name: value + 1 for name, value in before.items()}
    name = next((name for name in damaged if name.startswith(part)), part)
    changed = change(damaged.get(name))
    damaged = {n: t for n, t in damaged.items() if n != name} | ({} if changed is None else {name: changed})
    with pytest.raises(UserError, match=f"optimizer state: {says}"):
        optimizer.load_state_dict(damaged)
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state_dict().items())


def test_a_loaded_state_shares_no_memory_with_what_it_came_from():
    model = K2Model(config())
    optimizer = MuonClip(model, 0.02)
    backward(model, 0)
    optimizer.step()
    state = {name: value.clone() for name, value in optimizer.state_dict().items()}
    optimizer.load_state_dict(state)
    held = {name: value.clone() for name, value in state.items()}
    backward(model, 1)
    optimizer.step()
    assert all(torch.equal(value, held[name]) for name, value in state.items())


def test_adamw_moves_to_the_bits_of_torchs():
    mine, theirs = ([torch.randn(3, 5, generator=torch.Generator().manual_seed(n)) for n in range(3)] for _ in "ab")
    ours = AdamW(mine, 0.01, (0.9, 0.95), 0.1)
    torchs = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    for step in range(3):
        for a, b in zip(mine[step:], theirs[step:]):
            a.grad = b.grad = torch.randn(3, 5, generator=torch.Generator().manual_seed(10 + step))
        ours.step()
        torchs.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs))
    for a, b in zip(mine, theirs):
        assert all(torch.equal(ours.state[a][name], torchs.state[b][name]) for name in STATE)


def test_training_does_not_load_torchs_compiler():
    """Which takes longer than all else that a short stage begins with."""
    code = (
        "import sys, torch\n"
        "from engine.model.model import K2Model\n"
        "from engine.optim.muonclip import MuonClip\n"
        "from engine.training.numerics import settle\n"
        "from tests.engine.optim.oracle import backward\n"
        "from tests.engine.tiny import config\n"
        "settle(1)\n"
        "with torch.device('meta'):\n"
        "    K2Model(config(), seed=None)\n"
        "model = K2Model(config())\n"
        "optimizer = MuonClip(model, 0.01)\n"
        "backward(model, 0)\n"
        "optimizer.step()\n"
        "assert torch.are_deterministic_algorithms_enabled()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
