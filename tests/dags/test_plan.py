"""The plan as asset checks: said once, said again when it changes. All states on a real page: tests/ui."""

import dagster as dg
import pytest

from dags import plan as plans
from pipelines import graph
from pipelines.manifest import load_manifest


@pytest.fixture
def told(instance):
    """Report what changed; return the checks as Dagster has them afterwards."""

    def go(now):
        events = list(plans.changed(instance, now))
        for event in events:
            instance.report_runless_asset_event(event)
        return {event.asset_key.to_user_string(): event for event in events}

    return go


def test_each_state_is_said_once(runs, told):
    runs.add("corpus", 1)
    runs.add("rephrase", 2, outcome="failed")
    now = plans.plan("smoke")
    assert now["rephrase"]["state"] == "failed"
    found = told(now)
    corpus, rephrase = graph.stage_graph("corpus").outputs, graph.stage_graph("rephrase").outputs
    assert set(found) == {*corpus, *rephrase}, "what was never run is missing to Dagster without our word"
    assert found["documents"].description.startswith("stale: ")
    assert found["documents"].severity == dg.AssetCheckSeverity.WARN
    assert found["rewrites"].description == "failed: the disk is full"
    assert found["rewrites"].severity == dg.AssetCheckSeverity.ERROR
    assert not any(check.passed for check in found.values())
    assert told(now) == {}


def test_another_reason_record_or_state_is_said_again(told):
    stage = next(iter(load_manifest().stages))
    entry = {"state": "fresh", "reason": "since then", "record": "a.json"}
    assert all(check.passed for check in told({stage: entry}).values())
    assert told({stage: entry}) == {}
    for change in ({"record": "b.json"}, {"state": "stale", "reason": "code"}, {"reason": "parameter"}):
        entry = {**entry, **change}
        assert set(told({stage: entry})) == set(graph.stage_graph(stage).outputs)


def test_what_the_plan_depends_on_is_noticed(runs):
    first = plans.touched("smoke")
    assert plans.touched("smoke") == first
    runs.add("corpus", 1)
    second = plans.touched("smoke")
    (graph.dataset_path("smoke", "documents") / "manifest.json").unlink()
    assert len({first, second, plans.touched("smoke")}) == 3
