"""Runs made in a shell reach Dagster once, with the versions by which it tells fresh from stale."""

from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from dags import report
from dags.assets import stage_assets
from dags.checks import CHECK
from dags.versions import code_version
from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import PULLED
from pipelines import graph
from pipelines.stages_file import load_stages_file


def badges(instance: dg.DagsterInstance, versions: dict[str, str]) -> dict[str, StaleStatus]:
    stages = load_stages_file().stages
    definitions = [stage_assets(name, spec, "smoke", versions.get(name)) for name, spec in stages.items()]
    assets = dg.Definitions(assets=definitions).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, assets, LoadingContextForTest(instance))
    return {
        name: resolver.get_status(dg.AssetKey(name)) for stage in stages for name in graph.stage_graph(stage).outputs
    }


def test_shell_runs_are_reported_once(runs, instance):
    runs.add("corpus", 1)
    runs.add("corpus", 2, outcome="failed")
    runs.add("rephrase", 3)
    count = len(graph.stage_graph("corpus").outputs) + len(graph.stage_graph("rephrase").outputs)
    assert report.report_all(instance, "smoke") == count
    assert report.report_all(instance, "smoke") == 0
    runs.add("corpus", 4, seed=2)
    assert report.report_all(instance, "smoke") == len(graph.stage_graph("corpus").outputs)


def test_what_was_pulled_is_not_called_a_run_made_here(runs, instance):
    record = runs.add("corpus", 1)
    write_atomic(record["path"], canonical_json({**without_path(record), "outcome": PULLED}))
    report.report_all(instance, "smoke")
    event = instance.get_latest_materialization_event(dg.AssetKey("documents"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.description == "pulled by DVC, not run here, by ann"


def without_path(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "path"}


def test_the_newest_run_of_a_stage_is_its_latest_materialisation(runs, instance):
    runs.add("corpus", 1)
    latest = runs.add("corpus", 2, seed=2)
    report.report_all(instance, "smoke")
    event = instance.get_latest_materialization_event(dg.AssetKey("documents"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["run_record"].value == latest["path"].name
    assert event.asset_materialization.metadata["dagster/row_count"].value == 7


def test_badges_agree_with_the_records(runs, instance):
    corpus, rephrase = runs.add("corpus", 1), runs.add("rephrase", 2)
    report.report_all(instance, "smoke")
    now = {
        record["stage"]: code_version(record["parts"]["code"], record["parts"]["parameters"])
        for record in (corpus, rephrase)
    }
    marks = badges(instance, now)
    assert marks["documents"] == marks["rewrites"] == StaleStatus.FRESH
    assert marks["tokenizer"] == StaleStatus.MISSING
    assert badges(instance, {**now, "corpus": "another"})["documents"] == StaleStatus.STALE
    runs.add("corpus", 3, seed=2)
    report.report_all(instance, "smoke")
    assert badges(instance, {"rephrase": now["rephrase"]})["rewrites"] == StaleStatus.STALE


def test_a_table_refused_in_a_shell_fails_its_check_once(runs, instance):
    runs.gate_report("documents", "corpus", passed=False)
    assert report.report_all(instance, "smoke") == 1
    assert report.report_all(instance, "smoke") == 0
    assert not latest(instance).passed
    assert latest(instance).metadata["failures"].value == "row_count is 0, expected at least 1"
    runs.gate_report("documents", "corpus", passed=True)
    runs.add("corpus", 1)
    report.report_all(instance, "smoke")
    assert latest(instance).passed


def latest(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(dg.AssetKey("documents"), CHECK))
    assert record is not None
    return record.event.dagster_event.event_specific_data


def test_the_sensor_reports_and_then_rests(runs, instance):
    sensor = report.shell_run_sensor("smoke")
    runs.add("corpus", 1)
    with dg.build_sensor_context(instance=instance) as context:
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        assert {event.asset_key.to_user_string() for event in result.asset_events} == set(
            graph.stage_graph("corpus").outputs
        )
        report.report_all(instance, "smoke")
        assert isinstance(sensor(context), dg.SkipReason)
