"""Aliases of the registered model: moved by a passed gate, left where they were by a refused one."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import UserError
from pipelines import graph
from pipelines.gates.gate import judge_row
from pipelines.stages_file import load_stages_file
from pipelines.track.promotion import Gate, load_gates, model_name
from pipelines.track.session import Session
from pipelines.track.store import client

pytestmark = pytest.mark.timeout(600)  # MLflow's first use of a database waits for the disc hundreds of times
PROFILE = "laptop"


@pytest.fixture
def store(database: str) -> Any:
    return client(database)


def promote(database: str) -> list[Any]:
    session = Session(PROFILE, database)
    session.take_up()
    return session.promote()


def test_a_passed_gate_moves_the_alias_and_a_refused_one_leaves_it(add_run: Callable[..., Any], database, store):
    name = model_name(PROFILE)
    good = add_run("pretrain", 1, PROFILE, metrics={"gain_over_bigram": 0.8}, lr=0.01)
    (verdict,) = promote(database)
    assert verdict.passed
    first = store.get_model_version_by_alias(name, "base")
    assert first.tags["k2.digest"] == good["outputs"]["base_checkpoint"]
    assert first.tags["k2.key"] == good["key"]
    assert first.source == f"k2:///data/{PROFILE}/pretrain/base_checkpoint"
    assert store.get_run(first.run_id).data.tags["k2.record"] == first.tags["k2.record"]

    add_run("pretrain", 2, PROFILE, metrics={"gain_over_bigram": 0.1}, lr=0.02)
    (verdict,) = promote(database)
    assert verdict.sentence == (
        f"{name}: alias base stays at version 1: version 2 was refused, since gain_over_bigram is 0.1, "
        "expected at least 0.4: a base model predicts clearly better than counting pairs"
    )
    assert store.get_model_version_by_alias(name, "base").version == first.version
    refused = store.get_model_version(name, "2")
    assert (refused.tags["k2.gate"], refused.tags["k2.gate.verdict"]) == ("refused", verdict.sentence)

    assert promote(database) == [], "each version is judged once"
    add_run("pretrain", 3, PROFILE, metrics={"gain_over_bigram": 0.1}, lr=0.02)
    assert promote(database) == [], "the same checkpoint made again is the same version"


def test_two_metrics_are_compared(add_run: Callable[..., Any], database, store):
    add_run("rl", 1, PROFILE, metrics={"reward_before": 0.3, "reward_after": 0.2}, lr=1)
    (verdict,) = [verdict for verdict in promote(database) if verdict.alias == "rl"]
    assert not verdict.passed
    assert "alias rl is not set" in verdict.sentence
    assert "reward_after - reward_before is -0.1" in verdict.sentence


@pytest.mark.parametrize("bound", [{"min_value": 0.4}, {"max_value": 0.4}, {"min_value": 0, "minus": "other"}])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.4", None])
def test_what_is_no_finite_number_passes_no_gate(bound: dict[str, Any], value: Any):
    gate = Gate("base", "base_checkpoint", {"loss": bound})
    metrics = {} if value is None else {"loss": value}
    report = judge_row(
        "base_checkpoint", gate.row({"outcome": "adopted", "metrics": metrics | {"other": 1}}), gate.suite()
    )
    assert not report.passed
    assert report.failures[0].endswith(" is undefined, expected a finite number")
    json.dumps(report.report, allow_nan=False)
    assert judge_row("base_checkpoint", {"loss": 0.4, "loss - other": 0.1}, gate.suite()).passed


@pytest.mark.parametrize("profile", load_stages_file().profiles)
def test_every_profile_has_the_four_gates(profile: str):
    assert [gate.alias for gate in load_gates(profile)] == ["base", "long", "sft", "rl"]


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (None, "gate .* is None: give it exactly checkpoint and metrics"),
        ({"checkpoint": "base_checkpoint"}, "give it exactly checkpoint and metrics"),
        ({"checkpoint": "base", "metrics": {"loss": {"max_value": 1}}}, "names the checkpoint base"),
        (
            {"checkpoint": "base_checkpoint", "metrics": {"loss": {"most": 1}}},
            "metric loss needs min_value or max_value",
        ),
        *(
            (
                {"checkpoint": "base_checkpoint", "metrics": {"loss": {"min_value": bound}}},
                "min_value is .*finite number",
            )
            for bound in (-math.inf, math.nan, "0.4", True)
        ),
        (
            {"checkpoint": "base_checkpoint", "metrics": {"loss": {"min_value": 2, "max_value": 1}}},
            "min_value is above max_value",
        ),
    ],
)
def test_a_wrong_gate_is_one_sentence(gate: dict[str, Any] | None, says: str, monkeypatch: pytest.MonkeyPatch):
    real = graph.config
    monkeypatch.setattr(graph, "config", lambda p, s: {"base": gate} if s == "promotion" else real(p, s))
    with pytest.raises(UserError, match=says):
        load_gates(PROFILE)


def test_a_metric_that_the_stage_lacks_is_named(add_run: Callable[..., Any], database):
    add_run("extend", 1, PROFILE, lr=1)
    with pytest.raises(
        UserError, match="gate long names the metric loss_beyond_yarn, which stage extend does not have"
    ):
        promote(database)
