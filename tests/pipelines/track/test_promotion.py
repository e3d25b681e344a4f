"""Aliases of the registered model: moved by a passed gate, left where they were by a refused one."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import canonical_json
from engine.errors import UserError
from engine.identity import records
from engine.identity.fingerprint import KINDS
from pipelines import graph, runner, truth
from pipelines.configuration import compute_classes
from pipelines.gates.gate import judge_row
from pipelines.hooks import RunContext
from pipelines.stages_file import load_stages_file
from pipelines.track.promotion import Gate, load_gates, model_name
from pipelines.track.session import Session
from pipelines.track.store import client, experiment_name

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


REFUSED = {
    "an edit while the job waits": ("pretrain", 1),
    "an edit before the job is requeued": ("pretrain", 2),
    "an edit right after the driver has printed its key": ("pretrain", 1),
    "a checkout while extend trains": ("extend", 1),
}
"""What the tree went through, the stage that ran then, and its attempts (tests/cluster/test_snapshot.py)."""


@pytest.mark.parametrize("outputs", [{}, {"base_checkpoint": "e" * 32, "extended_checkpoint": "f" * 32}])
def test_a_run_that_is_refused_since_its_key_is_true_no_more_moves_no_alias(
    add_run: Callable[..., Any], database, store, tmp_path, monkeypatch, outputs
):
    """The run is a failed one in MLflow, and no version, whatever its record names and however good its figures."""
    name = model_name(PROFILE)
    figures = {"gain_over_bigram": 0.9, "loss_beyond_yarn": 1.0, "loss_beyond_none": 2.0}
    figures |= {"loss_within_yarn": 1.0, "loss_within_none": 1.0}
    earlier = {stage: add_run(stage, 1, PROFILE, metrics=figures, lr=len(outputs)) for stage in ("pretrain", "extend")}
    promote(database)
    aliases, versions = store.get_registered_model(name).aliases, store.search_model_versions(f"name='{name}'")
    shown = {alias: store.get_model_version(name, aliases[alias]).tags["k2.digest"] for alias in ("base", "long")}
    assert shown == {
        "base": earlier["pretrain"]["outputs"]["base_checkpoint"],
        "long": earlier["extend"]["outputs"]["extended_checkpoint"],
    }
    for case, (stage, attempt) in REFUSED.items():
        path = refuse(earlier[stage], attempt, tmp_path, monkeypatch)
        record = json.loads(path.read_bytes())
        assert (record["outcome"], record["outputs"]) == ("failed", {}), case
        path.write_bytes(canonical_json({**record, "outputs": outputs, "metrics": figures}))
        assert promote(database) == [], case
        assert store.get_registered_model(name).aliases == aliases, case
        (run,) = runs_of_record(store, f"{stage}/{path.stem}")
        assert run.info.status == "FAILED", case
        assert "is no longer what its key says" in run.data.tags["k2.error"], case
    assert len(store.search_model_versions(f"name='{name}'")) == len(versions)


def refuse(record: dict[str, Any], attempt: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the runner's record of a run under a record's key that is refused before it is published."""
    stage, runs = record["stage"], graph.runs_folder(PROFILE, record["stage"])
    monkeypatch.setattr(runner, "ROOT", root)
    code: dict[str, Any] = {kind: {} for kind in KINDS}
    parts = {**record["parts"], "code": code, "parameters": {stage: graph.parameters(PROFILE)[stage]}, "sources": {}}
    with pytest.raises(UserError, match=r"is no longer what its key says: input shards is gone\.") as refusal:
        truth.check_read(PROFILE, stage, {**parts, "inputs": {"shards": "0" * 32}})
    nodes = list(graph.stage_graph(stage).pipeline.nodes)
    run = runner.StageRun(stage, nodes, None, RunContext(PROFILE, compute_classes(PROFILE)), None, None)
    begun = {name: record[name] for name in ("user", "host", "commit", "dirty")}
    begun |= {"started": records.now(), "attempt": attempt}
    before = set(runs.glob("*.json"))
    workspace = graph.work_folder(PROFILE) / stage / record["key"]
    run._record(graph.data_folder(PROFILE), record["key"], parts, begun, time.monotonic(), workspace, refusal.value)
    (record_path,) = set(runs.glob("*.json")) - before
    return record_path


def runs_of_record(store: Any, record: str) -> list[Any]:
    """Return the runs of a record in MLflow."""
    experiment = store.get_experiment_by_name(experiment_name(PROFILE))
    return list(store.search_runs([experiment.experiment_id], f"tags.`k2.record` = '{record}'"))


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
        (None, "gate base: it is None, not names with values"),
        ({"checkpoint": "base_checkpoint"}, "gate base: the field metrics is missing; add it"),
        ({"checkpoint": "base_checkpoint", "metrics": {}}, "the field metrics: dictionary should have at least 1 item"),
        ({"checkpoint": "base", "metrics": {"loss": {"max_value": 1}}}, "names the checkpoint base"),
        (
            {"checkpoint": "base_checkpoint", "metrics": {"loss": {"most": 1}}},
            "the field metrics.loss.most is unknown; choose one of min_value, max_value, minus, description",
        ),
        (
            {"checkpoint": "base_checkpoint", "metrics": {"loss": {"minus": "other"}}},
            "the field metrics.loss: it needs min_value or max_value",
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
