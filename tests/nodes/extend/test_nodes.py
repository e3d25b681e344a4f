"""The extend stage: the checkpoint it makes, the comparison it reports, and what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, load_config
from engine.model.model import K2Model
from engine.optim.schedule import Schedule
from engine.text.tokenizer import K2Tokenizer
from engine.training.language import token_nats
from nodes.extend import curves, passkey
from nodes.extend.nodes import train_extend
from nodes.extend.scaling import rescaled, variants, yarn
from nodes.extend.schema import Parameters, Passkey
from nodes.pretrain.nodes import train_pretrain
from tests.engine.tiny import config
from tests.nodes import text

SHORT = Schedule.warmed_up(1e-3, 0, ("linear", 1, 3.5e-4))


def smoke(**changes):
    return text.merge(copy.deepcopy(text.parameters("extend", "smoke")), changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer, shards = text.make(tmp_path_factory.mktemp("inputs"))
    schedule = Schedule.warmed_up(2e-2, 2, ("constant", 8, None), ("cosine", 8, 1e-3), ("linear", 2, 3.5e-4))
    few = {"schedule": schedule, "baseline_orders": [2]}
    p = text.merge(copy.deepcopy(text.parameters("pretrain", "smoke")), few)
    return tokenizer, shards, train_pretrain(tokenizer, shards, p, tmp_path_factory.mktemp("base"))[0]


@pytest.fixture(scope="module")
def extended(base, tmp_path_factory):
    return train_extend(*base, smoke(), tmp_path_factory.mktemp("extend"))


def test_the_checkpoint_carries_yarn_under_released_names(extended):
    checkpoint, _, metrics = extended
    config, extra = load_config(checkpoint)
    assert config.rope_scaling == {
        "type": "yarn",
        "factor": 8.0,  # 2 in the anneal, 4 after it
        "original_max_position_embeddings": 64,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    assert config.max_position_embeddings == metrics["context"] == 512
    assert extra["stage"] == "extend"
    assert extra["trained_length"] == 128
    assert load_checkpoint(checkpoint).frequencies_P.shape == (4,)


def test_the_report_compares_three_ways_on_the_same_windows(extended):
    _, report, metrics = extended
    content = json.loads((report / "length_curves.json").read_text())
    assert content["positions"][-1] == content["length"] == 512
    assert set(content["nats_per_token"]) == {"none", "linear", "yarn"}
    assert all(len(values) == 16 for values in content["nats_per_token"].values())
    assert set(json.loads((report / "passkey.json").read_text())) == {"none", "linear", "yarn"}
    assert (report / "length_curves.png").stat().st_size > 1000
    yarn = content["nats_per_token"]["yarn"]
    assert metrics["loss_beyond_yarn"] == pytest.approx(np.mean(yarn[4:]))
    assert metrics["loss_within_yarn"] == pytest.approx(np.mean(yarn[:4]))


def test_a_second_run_gives_the_same_bytes(extended, base, tmp_path):
    again = train_extend(*base, smoke(), tmp_path)
    for first, second in zip(extended[:2], again[:2]):
        names = sorted(p.name for p in first.iterdir())
        assert names == sorted(p.name for p in second.iterdir())
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert extended[2] == again[2]


def test_a_length_not_beyond_the_base_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="already trained at 64"):
        train_extend(*base, smoke(sequence_length=64), tmp_path)


def test_an_extended_length_beyond_all_text_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="too short for one window"):
        train_extend(*base, smoke(yarn={"factor": 1024}, schedule=SHORT), tmp_path)


def test_a_needle_that_does_not_fit_is_refused(base):
    tok = K2Tokenizer.load(base[0])
    with pytest.raises(UserError, match="passkey probe needs"):
        passkey.probes(tok, np.zeros((1, 16), dtype=np.int64), 16, Passkey(digits=5, depths=1, trials=1), 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"yarn": {"factor": 1}}, "factor"),
        ({"curves": {"buckets": 15}}, "curves.buckets"),
        ({"batch_size": 3, "micro_batches": 2}, "micro_batches"),
    ],
)
def test_wrong_parameters_are_refused_by_name(change, named):
    with pytest.raises(ValidationError, match=named):
        Parameters.model_validate(smoke(**change))


def test_probes_hold_the_key_at_its_depth_and_at_the_end(base):
    tok = K2Tokenizer.load(base[0])
    filler = np.zeros((3, 200), dtype=np.int64)
    probes = passkey.probes(tok, filler, 200, Passkey(digits=4, depths=3, trials=2), seed=5)
    assert len(probes) == 6
    for probe in probes:
        assert probe.tokens.shape == (200,)
        answer = tok.decode(probe.tokens[-probe.key_tokens :].tolist()).strip()
        assert len(answer) == 4
        whole = tok.decode(probe.tokens.tolist())
        assert whole.count(answer) == 3
        assert whole.endswith(answer)
    places = [int(np.argmax(probe.tokens != 0)) for probe in probes[:3]]
    assert places == sorted(places)
    assert places[0] < places[2]
    other = passkey.probes(tok, filler, 200, Passkey(digits=4, depths=3, trials=2), seed=6)
    assert any((a.tokens != b.tokens).any() for a, b in zip(probes, other))


def test_a_model_that_knows_the_key_is_found_out():
    """A model whose head always says token 7 finds keys made of 7s, and no others."""
    model = K2Model(config()).eval()
    with torch.no_grad():
        model.norm.weight.zero_()
    probe = passkey.Probe(np.array([1, 2, 3, 0, 0]), 2, 0.5)
    other = passkey.Probe(np.array([1, 2, 3, 5, 5]), 2, 0.5)
    score = passkey.ask(model, [probe, other], "float32")  # all logits equal: token 0 is the first of them
    assert score.accuracy == 0.5
    assert score.token_accuracy == 0.5
    assert score.nats_per_token == pytest.approx(np.log(61), abs=1e-4)


def test_scaling_keeps_the_weights_and_changes_only_positions():
    p = Parameters.model_validate(smoke())
    original = config().max_position_embeddings
    annealed = rescaled(K2Model(config()), yarn(p, original, p.sequence_length), p.sequence_length)
    ids = np.arange(40, dtype=np.int64)[None]
    plain = token_nats(annealed, ids)
    scaled = variants(annealed, p, original)
    assert list(scaled) == ["none", "linear", "yarn"]
    assert torch.equal(token_nats(scaled["none"], ids), plain)
    assert not torch.equal(token_nats(scaled["linear"], ids), plain)
    torch.testing.assert_close(scaled["linear"].frequencies_P * p.yarn.factor, annealed.frequencies_P)
    for model in scaled.values():
        assert model.config.max_position_embeddings == p.extended_length
        assert all(torch.equal(model.state_dict()[n], v) for n, v in annealed.state_dict().items())
    assert scaled["yarn"].config.rope_scaling["factor"] == p.extended_length / original


def test_k2s_parameters_end_in_the_released_configuration():
    p = Parameters.model_validate(text.parameters("extend", "k2"))
    assert p.extended_length == 131072
    assert yarn(p, 4096, p.extended_length) == {
        "type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }


def test_beyond_and_within_split_at_the_trained_length():
    values = [1.0, 2.0, 3.0, 4.0]
    assert curves.within(values, 400, 200) == 1.5
    assert curves.beyond(values, 400, 200) == 3.5
    assert curves.ends(400, 4) == [100, 200, 300, 400]
