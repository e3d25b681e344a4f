"""The pretrain stage on real shards: learns, is resumable, repeatable to the byte, and says what is wrong."""

import copy
import json
import math

import pytest
from pydantic import ValidationError

from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, load_config
from engine.optim.schedule import Schedule
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out
from engine.text.shards import TokenShards
from nodes.pretrain.nodes import train_pretrain
from nodes.pretrain.schema import Parameters
from tests.nodes import text


def smoke(**changes):
    return text.merge(copy.deepcopy(text.parameters("pretrain", "smoke")), changes)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return text.make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    work = tmp_path_factory.mktemp("trained")
    return work, train_pretrain(*inputs, smoke(), work)


def files(*directories):
    return {str(p.relative_to(d)): p.read_bytes() for d in directories for p in sorted(d.rglob("*")) if p.is_file()}


def test_the_loss_falls_from_the_uniform_one(trained):
    _, (_, history, metrics) = trained
    rows = [json.loads(line) for line in (history / "history.jsonl").read_text().splitlines()]
    assert len(rows) == metrics["steps"] == 40
    assert rows[0]["loss"] == pytest.approx(math.log(512), abs=0.1)
    assert metrics["validation_loss"] < rows[0]["loss"] - 0.5
    assert rows[19]["validation_loss"] > rows[39]["validation_loss"]


def test_metrics_are_flat_finite_and_name_the_baselines(trained):
    metrics = trained[1][2]
    assert all(isinstance(v, str) or math.isfinite(v) for v in metrics.values())
    for name in ("bigram", "kneser_ney_3gram", "kneser_ney_5gram"):
        assert metrics[f"{name}_bits_per_byte"] > 0
    assert metrics["gain_over_bigram"] == pytest.approx(metrics["bigram_loss"] - metrics["validation_loss"])
    ratio = metrics["validation_bits_per_byte"] / metrics["validation_loss"]
    assert ratio == pytest.approx(metrics["bigram_bits_per_byte"] / metrics["bigram_loss"])


def test_the_artifacts_are_complete(trained, inputs):
    _, (checkpoint, history, metrics) = trained
    assert {p.name for p in history.iterdir()} == {
        "history.jsonl",
        "baselines.json",
        "loss.png",
        "max_logit.png",
        "expert_load.png",
    }
    config, extra = load_config(checkpoint)
    assert config.max_position_embeddings == 64
    assert extra == {
        "stage": "pretrain",
        "tokenizer": TokenShards.open(inputs[1]).tokenizer_digest,
        "trained_length": 64,
    }
    parameters = sum(p.numel() for p in load_checkpoint(checkpoint).parameters())
    assert parameters + 4 == metrics["parameters"]  # the router's biases are counted, as the published figure does


@pytest.mark.parametrize(
    "layout",
    [Layout(recompute=("norm", "swiglu", "mla_up", "moe_down")), Layout(offload=("activations", "optimizer"))],
    ids=["recompute", "offload"],
)
def test_a_layout_that_saves_memory_gives_the_same_bytes(trained, inputs, tmp_path, layout):
    with laid_out(layout):
        checkpoint, history, _ = train_pretrain(*inputs, smoke(), tmp_path)
    assert files(checkpoint, history) == files(*trained[1][:2])


def test_a_layout_that_stores_in_fp8_learns_the_same_with_other_bits(trained, inputs, tmp_path):
    with laid_out(Layout(fp8_storage=True)):
        checkpoint, _, metrics = train_pretrain(*inputs, smoke(), tmp_path)
    assert files(checkpoint) != files(trained[1][0])
    assert metrics["validation_loss"] == pytest.approx(trained[1][2]["validation_loss"], abs=0.05)


def test_a_run_killed_half_way_ends_in_the_same_bytes(trained, inputs, tmp_path, monkeypatch):
    from nodes.pretrain import train

    measure = train.losses_by_domain

    class Killed(Exception):
        pass

    def die(model, windows, dtype):
        raise Killed

    monkeypatch.setattr(train, "losses_by_domain", die)  # the first validation, at step 20
    with pytest.raises(Killed):
        train_pretrain(*inputs, smoke(), tmp_path)
    monkeypatch.setattr(train, "losses_by_domain", measure)
    checkpoint, history, metrics = train_pretrain(*inputs, smoke(), tmp_path)
    _, (straight_checkpoint, straight_history, straight_metrics) = trained
    assert files(checkpoint, history) == files(straight_checkpoint, straight_history)
    assert metrics == straight_metrics


def test_the_router_biases_move_until_the_anneal(inputs, tmp_path):
    schedule = Schedule.warmed_up(0.01, 1, ("linear", 3, 3.5e-4))
    few = {"schedule": schedule, "validation": {"every": 50}, "baseline_orders": [2]}
    checkpoint, _, _ = train_pretrain(*inputs, smoke(**few), tmp_path)
    bias = load_checkpoint(checkpoint).routers()[1].e_score_correction_bias
    assert 0 < bias.abs().max() < 2 * 0.01  # one step's worth


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"micro_batches": 3}, "micro_batches"),
        ({"schedule": {"phases": [{"shape": "linear", "length": 1, "end": 1.0}], "start": 0.5}}, "rates must fall"),
        ({"schedule": {"phases": []}}, "no step"),
        ({"schedule": {"steps": 41}}, "add up to 40 steps, but steps is 41"),
        ({"baseline_orders": [3]}, "baseline_orders lacks 2"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"model": {"hiden_size": 1}}, "hiden_size"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_wrong_parameters_are_refused_by_name(change, named):
    with pytest.raises(ValidationError, match=named):
        Parameters.model_validate(smoke(**change))


def test_a_sequence_longer_than_the_text_is_refused(inputs, tmp_path):
    with pytest.raises(UserError, match="too short for one window of seq_len 100000"):
        train_pretrain(*inputs, smoke(sequence_length=100_000), tmp_path)


@pytest.mark.parametrize("profile", ["smoke", "h200", "moonlight", "k2"])
@pytest.mark.parametrize("stage", ["pretrain", "extend"])
def test_every_profile_has_valid_parameters(stage, profile):
    import nodes.extend.schema
    import nodes.pretrain.schema

    schema = {"pretrain": nodes.pretrain.schema, "extend": nodes.extend.schema}[stage]
    p = schema.Parameters.model_validate(text.parameters(stage, profile))
    schedule = p.schedule
    tokens = schedule.total * p.batch_size * p.sequence_length
    expected = {("pretrain", "k2"): 15.9e12, ("extend", "k2"): 60e9, ("pretrain", "moonlight"): 5.7e12}
    assert tokens == pytest.approx(expected.get((stage, profile), tokens), rel=0.01)


@pytest.mark.parametrize(
    ("profile", "total", "active"),
    [("k2", 1_026_408_232_448, 32_861_500_928), ("moonlight", 15_960_110_208, 2_914_776_192)],
)
def test_the_profiles_sizes_are_the_published_ones(profile, total, active):
    from engine.model.size import n_params
    from nodes.pretrain.train import configuration

    p = Parameters.model_validate(text.parameters("pretrain", profile))
    assert (n_params(configuration(p, 4096))[-1].total, n_params(configuration(p, 4096))[-1].active) == (total, active)
