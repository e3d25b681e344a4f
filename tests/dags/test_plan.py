"""The plan as asset checks: reported once, and again when it changes. All states on a real page: tests/ui."""

import dagster as dg
import pytest

from dags import plan as plans
from dags import report
from dags.attending import attended_here
from dags.checks import latest_check
from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import INTERRUPTED
from engine.launch.heartbeat import HEARTBEAT
from engine.launch.lifetime import lock
from engine.training.sealed import seal
from pipelines import graph
from pipelines.stages_file import load_stages_file
from pipelines.status import stage_status


@pytest.fixture
def reported_checks(instance):
    """Return a function that reports changes, and returns the checks that Dagster then has."""

    def go(now):
        events = list(plans.changed(instance, now))
        for event in events:
            instance.report_runless_asset_event(event)
        return {event.asset_key.to_user_string(): event for event in events}

    return go


def test_each_state_is_reported_once(runs, reported_checks):
    runs.add("corpus", 1)
    runs.add("rephrase", 2, outcome="failed", key=stage_status("smoke")["rephrase"].key)
    now = plans.plan("smoke")
    assert now["rephrase"]["state"] == "failed"
    checks = reported_checks(now)
    corpus, rephrase = graph.stage_graph("corpus").outputs, graph.stage_graph("rephrase").outputs
    assert set(checks) == {*corpus, *rephrase}, "what was never run is missing to Dagster without our word"
    assert checks["documents"].description.startswith("stale: ")
    assert checks["documents"].severity == dg.AssetCheckSeverity.WARN
    assert checks["rewrites"].description == "failed: the disk is full"
    assert checks["rewrites"].severity == dg.AssetCheckSeverity.ERROR
    assert not any(check.passed for check in checks.values())
    assert reported_checks(now) == {}


def test_another_reason_record_or_state_is_reported_again(reported_checks):
    stage = next(iter(load_stages_file().stages))
    entry = {"state": "fresh", "reason": "since then", "record": "a.json"}
    assert all(check.passed for check in reported_checks({stage: entry}).values())
    assert reported_checks({stage: entry}) == {}
    for change in ({"record": "b.json"}, {"state": "stale", "reason": "code"}, {"reason": "parameter"}):
        entry = {**entry, **change}
        assert set(reported_checks({stage: entry})) == set(graph.stage_graph(stage).outputs)


def test_a_report_older_than_the_latest_materialisation_is_repeated(runs, instance, reported_checks):
    """The page shows no check that is older than the latest materialisation."""
    runs.add("corpus", 1)
    report.report_all(instance, "smoke")
    entry = {"state": "fresh", "reason": "since then", "record": "a.json"}
    assert set(reported_checks({"corpus": entry})) == set(graph.stage_graph("corpus").outputs)
    assert reported_checks({"corpus": entry}) == {}
    instance.report_runless_asset_event(dg.AssetMaterialization("documents"))
    assert set(reported_checks({"corpus": entry})) == {"documents"}


@pytest.fixture
def tick(instance, monkeypatch):
    """One evaluation of the sensor: the assets that it speaks of; it goes on from its last cursor."""
    sensor, cursors = plans.plan_sensor("smoke"), [None]
    monkeypatch.setattr(plans, "_read", plans.plan)

    def go():
        with dg.build_sensor_context(instance=instance, cursor=cursors[-1]) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return None
        cursors.append(result.cursor)
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return {event.asset_key.to_user_string() for event in result.asset_events}

    return go


def test_the_sensor_waits_for_the_report_of_a_run(runs, instance, tick):
    runs.add("corpus", 1)
    assert tick() == set(), "its materialisation is not there yet"
    report.report_all(instance, "smoke")
    assert tick() == set(graph.stage_graph("corpus").outputs)
    assert tick() is None


def test_a_stage_that_ctrl_c_stopped_is_interrupted_until_somebody_goes_on(runs, instance, tick):
    def shown():
        evaluations = [latest_check(instance, name, plans.PLAN) for name in graph.stage_graph("corpus").outputs]
        assert {evaluation.severity for evaluation in evaluations} == {dg.AssetCheckSeverity.WARN}
        assert not any(evaluation.passed for evaluation in evaluations)
        (description,) = {evaluation.description for evaluation in evaluations}
        return description

    runs.add("corpus", 1)
    report.report_all(instance, "smoke")
    tick()
    assert shown().startswith("stale: ")
    stopped_at(66, 300, runs)
    tick()
    assert shown() == "interrupted: stopped at 66 of 300; the same command goes on"
    with lock(graph.work_folder("smoke") / "corpus" / "lock", "it"):
        tick()
        assert shown().startswith("stale: "), "a driver is at it"
    tick()
    assert shown().startswith("interrupted: ")


def stopped_at(step, steps, runs):
    """Leave what the runner leaves of corpus after Ctrl-C; a training stage would also have checkpoints."""
    key = stage_status("smoke")["corpus"].key
    workspace = graph.work_folder("smoke") / "corpus" / key / "training"
    checkpoint = workspace / "checkpoints" / f"{step:08d}"
    checkpoint.mkdir(parents=True)
    seal(checkpoint, {"step": step}, {})
    write_atomic(workspace / HEARTBEAT, canonical_json({"step": step, "steps": steps}))
    runs.add("corpus", 2, outcome=INTERRUPTED, key=key)


def test_the_sensor_leaves_a_stage_to_the_run_that_attends_it(runs, instance, tick):
    runs.add("corpus", 1)
    report.report_all(instance, "smoke")
    with attended_here("smoke", "corpus"):
        assert tick() == set()
        assert tick() is None, "a plan is not made every few seconds for as long as a training takes"
    assert tick() == set(graph.stage_graph("corpus").outputs)


def test_the_sensor_settles_for_a_stage_that_has_got_a_new_output(runs, instance, tick):
    """No run can be reported for the new output before the stage has run again."""
    record = runs.add("corpus", 1)
    report.report_all(instance, "smoke")
    outputs = {name: digest for name, digest in record["outputs"].items() if name != "corpus_card"}
    record["path"].write_bytes(canonical_json({**{k: v for k, v in record.items() if k != "path"}, "outputs": outputs}))
    instance.wipe_assets([dg.AssetKey("corpus_card")])
    assert tick()
    assert tick() is None


def test_what_the_plan_depends_on_is_noticed(runs):
    first = plans.touched("smoke")
    assert plans.touched("smoke") == first
    runs.add("corpus", 1)
    second = plans.touched("smoke")
    (graph.dataset_path("smoke", "documents") / "manifest.json").unlink()
    assert len({first, second, plans.touched("smoke")}) == 3
