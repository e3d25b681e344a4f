"""Checkpoints to hand off: exact, the same bytes twice, and every kind of damage named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, load_config, save_checkpoint
from engine.model.model import K2Model
from tests.engine.tiny import config


@pytest.fixture
def saved(tmp_path):
    model = K2Model(config())
    model.routers()[1].e_score_correction_bias.fill_(0.25)
    save_checkpoint(tmp_path / "a", model, {"tokenizer": "abc"})
    return model, tmp_path / "a"


def test_a_checkpoint_gives_the_same_model_and_the_same_bytes(saved, tmp_path):
    model, directory = saved
    again = load_checkpoint(directory)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert load_config(directory) == (config(), {"tokenizer": "abc"})
    save_checkpoint(tmp_path / "b", again, {"tokenizer": "abc"})
    for file in ("model.safetensors", "config.json"):
        assert (directory / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_bear_the_released_names(saved):
    names = set(load_file(saved[1] / "model.safetensors"))
    assert {
        "model.embed_tokens.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.2.mlp.experts.5.up_proj.weight",
        "model.layers.2.mlp.shared_experts.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    } <= names


def _truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(directory):
    save_file({"other": torch.zeros(2)}, directory / "model.safetensors")


def _missing_tensor(directory):
    weights = load_file(directory / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, directory / "model.safetensors")


def _other_shape(directory):
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, "vocab_size": 62}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, "truncated"),
        (_foreign, "other"),
        (_missing_tensor, "model.norm.weight"),
        (_other_shape, "embed_tokens"),
        (lambda d: (d / "model.safetensors").unlink(), "does not exist"),
        (lambda d: (d / "config.json").unlink(), "config.json does not exist"),
        (lambda d: (d / "config.json").write_text("{"), "not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "JSON list and not an object"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "not JSON"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(saved, damage, named):
    damage(saved[1])
    with pytest.raises(UserError, match=named):
        load_checkpoint(saved[1])
