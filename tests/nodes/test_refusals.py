"""What must not be trained on is refused in one sentence before the first step, by every training stage."""

import copy
import json
from dataclasses import replace

import polars as pl
import pytest
import torch

import engine.training.loop
from engine.errors import UserError
from engine.model.checkpoint import save_checkpoint
from engine.model.model import K2Model
from nodes.extend.nodes import train_extend
from nodes.pretrain.nodes import train_pretrain
from nodes.rl.nodes import train_rl
from nodes.sft.nodes import train_sft
from tests.nodes import text, toy


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Shards with their tokenizer, and the directory of another tokenizer."""
    root = tmp_path_factory.mktemp("inputs")
    tokenizer, shards = text.make(root)
    toy.tokenizer(root / "other")
    return tokenizer, shards, root / "other"


@pytest.fixture(autouse=True)
def _no_step(monkeypatch):
    def refuse(*_args, **_keywords):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(engine.training.loop, "backward", refuse)


def checkpoint(directory, vocab_size=toy.VOCABULARY, context=512, tokenizer=None, spoil=None):
    """A toy checkpoint; `spoil` names a tensor that gets a NaN."""
    config = replace(toy.model().config, max_position_embeddings=context, vocab_size=vocab_size)
    model = K2Model(config)
    if spoil:
        with torch.no_grad():
            model.state_dict()[spoil].view(-1)[7] = float("nan")
    save_checkpoint(directory, model, {} if tokenizer is None else {"tokenizer": tokenizer})
    return directory


EXAMPLES = pl.LazyFrame(
    {
        "id": ["a", "b"],
        "kind": ["demonstration"] * 2,
        "messages": [json.dumps([{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}])] * 2,
        "tools": ["[]"] * 2,
        "split": ["train", "validation"],
    }
)
BAD = {
    "another tokenizer": ({"tokenizer": "f" * 32}, r"config\.json names tokenizer ffff"),
    "NaN in the embedding": ({"spoil": "embed_tokens.weight"}, r"embed_tokens\.weight holds NaN"),
    "NaN in an expert": ({"spoil": "layers.1.mlp.experts.down_proj"}, r"experts\.0\.down_proj\.weight holds NaN"),
}


def run(stage, inputs, directory, work, **changes):
    tokenizer, shards, _ = inputs
    p = text.merge(copy.deepcopy(text.parameters(stage, "smoke")), changes)
    if stage == "extend":
        train_extend(tokenizer, shards, directory, p, work)
    elif stage == "pretrain":
        train_pretrain(tokenizer, shards, p, work)
    elif stage == "sft":
        train_sft(tokenizer, directory, EXAMPLES, shards, p, work)
    else:
        p = text.merge(p, {"ptx": {"chat": 0, "trajectory": 0}, "tools": {"tasks": 0}})
        train_rl(tokenizer, directory, EXAMPLES, shards, EXAMPLES, p, work)


@pytest.mark.parametrize("stage", ["extend", "sft", "rl"])
@pytest.mark.parametrize(("make", "named"), BAD.values(), ids=BAD)
def test_a_checkpoint_that_is_not_sound_or_not_of_this_tokenizer(inputs, tmp_path, stage, make, named):
    with pytest.raises(UserError, match=named) as refused:
        run(stage, inputs, checkpoint(tmp_path / "bad", **make), tmp_path)
    assert str(tmp_path / "bad") in str(refused.value)


@pytest.mark.parametrize(
    ("stage", "changes", "named"),
    [
        ("sft", {"max_tokens": 65}, r"sft\.max_tokens is 65, but the checkpoint reads 64 positions without YaRN"),
        ("rl", {"ptx": {"max_tokens": 65}}, r"rl\.ptx\.max_tokens is 65"),
        ("rl", {"ptx": {"max_tokens": 64, "natural_tokens": 65}}, r"rl\.ptx\.natural_tokens is 65"),
        (
            "rl",
            {"ptx": {"max_tokens": 64, "natural_tokens": 64}, "max_new_tokens": 60},
            r"rl\.max_new_tokens with the longest prompt \(\d+\) is \d+, but the checkpoint reads 64",
        ),
        (
            "sft",
            {"max_tokens": 64, "batch": {"chat": 0, "trajectory": 0, "values": 0}, "max_new_tokens": 60},
            r"sft\.max_new_tokens with the longest prompt",
        ),
    ],
)
def test_sequences_beyond_what_the_checkpoint_reads(inputs, tmp_path, stage, changes, named):
    with pytest.raises(UserError, match=named):
        run(stage, inputs, checkpoint(tmp_path / "short", context=64), tmp_path, **changes)


@pytest.mark.parametrize("stage", ["pretrain", "extend", "rl"])
def test_shards_of_another_tokenizer(inputs, tmp_path, stage):
    _, shards, other = inputs
    with pytest.raises(UserError, match="names tokenizer .*, but the one given is"):
        run(stage, (other, shards, None), checkpoint(tmp_path / "base"), tmp_path)
