"""The parameters that training stages share: what they refuse, and what reaches the optimizer."""

import inspect
from importlib.util import find_spec

import pytest
import torch
from pydantic import ValidationError

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out
from engine.training.language import make_optimizer
from engine.training.settings import OptimizerSettings
from tests.engine.optim.oracle import backward
from tests.engine.tiny import config

NEEDED = {
    "weight_decay": 0.1,
    "momentum": 0.95,
    "tau": 100.0,
    "adamw_lr_factor": 1.0,
    "newton_schulz_dtype": "float32",
}


def test_fields_left_out_are_muonclips_own_defaults():
    defaults = {name: p.default for name, p in inspect.signature(MuonClip.__init__).parameters.items()}
    settings = OptimizerSettings(**NEEDED)
    for name in ("coefficients", "nesterov", "rms_target", "per_head", "clip_per"):
        assert getattr(settings, name) == defaults[name]


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": "polar_express"},
        {"nesterov": False},
        {"rms_target": 0.1},
        {"per_head": True},
        {"clip_per": "layer", "tau": 1e-3},
    ],
)
def test_each_field_reaches_the_optimizer(change):
    """The step by the parameters is that of a MuonClip given the same by hand, and not the default's."""

    def weights(made):
        model = K2Model(config())
        backward(model, 0)
        made(model).step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    by_settings = weights(lambda model: make_optimizer(model, 0.02, OptimizerSettings(**(NEEDED | change))))
    assert torch.equal(by_settings, weights(lambda model: MuonClip(model, 0.02, ns_dtype=torch.float32, **change)))
    tau = change.get("tau", 100.0)
    assert not torch.equal(by_settings, weights(lambda model: MuonClip(model, 0.02, ns_dtype=torch.float32, tau=tau)))


DEEPSPEED = {"kind": "adamw", "backend": "deepspeed"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backend": "deepspeed"}, "DeepSpeed's Muon is not K2's .*; set kind: adamw or backend: ours"),
        ({"kind": "adamw", "zero_stage": 2}, "zero_stage and cpu_offload are of backend: deepspeed"),
        ({"kind": "adamw", "cpu_offload": True}, "zero_stage and cpu_offload are of backend: deepspeed"),
        ({**DEEPSPEED, "zero_stage": 3}, "zero_stage"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        OptimizerSettings(**NEEDED, **change)


def test_deepspeed_trains_whole_models_of_fp32_weights():
    chosen = OptimizerSettings(**NEEDED, **DEEPSPEED)
    parallelism = r"plain data parallelism, .* layout .*zero 1: take the field layout out"
    with laid_out(Layout(zero=1)), pytest.raises(UserError, match=parallelism):
        make_optimizer(K2Model(config()), 0.02, chosen)
    with laid_out(Layout(offload=("optimizer",))), pytest.raises(UserError, match=r"take it out, .*cpu_offload: true"):
        make_optimizer(K2Model(config()), 0.02, chosen)
    with pytest.raises(UserError, match=r"updates fp32 weights, and embed_tokens.weight is not: set backend: ours"):
        make_optimizer(K2Model(config()).to(torch.bfloat16), 0.02, chosen)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed here")
def test_where_deepspeed_is_missing_the_way_to_get_it_is_named():
    with pytest.raises(
        UserError, match=r"not installed: `pip install --no-deps -r requirements/deepspeed.txt`, or set"
    ):
        make_optimizer(K2Model(config()), 0.02, OptimizerSettings(**NEEDED, **DEEPSPEED))


def test_of_kind_adamw_every_weight_is_adamws():
    optimizer = make_optimizer(K2Model(config()), 0.02, OptimizerSettings(**NEEDED, kind="adamw"))
    assert not optimizer.muon
    assert make_optimizer(K2Model(config()), 0.02, OptimizerSettings(**NEEDED)).muon


@pytest.mark.parametrize("tau", [None, 0])
def test_a_threshold_of_null_or_zero_switches_the_clipping_off(tau):
    settings = OptimizerSettings(**(NEEDED | {"tau": tau}))
    assert settings.tau == 0.0
    assert not make_optimizer(K2Model(config()), 0.02, settings).clips


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": "newton"},
        {"rms_target": 0.0},
        {"nesterov": "perhaps"},
        {"per_head": 3},
        {"clip_per": "matrix"},
        {"kind": "sgd"},
        {"ns_steps": 3},
    ],
)
def test_what_an_optimizer_cannot_have_is_refused_by_name(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        OptimizerSettings(**NEEDED, **change)
