"""A stage that is materialised runs as in a shell, and its outputs are shown."""

import os

import dagster as dg
import pytest

from dags import assets, report
from dags.checks import CHECK
from dags.definitions import definitions
from dags.lineage import gated
from pipelines import graph


@pytest.fixture
def press(runs, instance, monkeypatch):
    """Materialise a stage whose `dvc repro` is `work(stage)`: exit status, lines said."""

    def go(stage, work, force=False):
        called = []

        def stub(command, say):
            called.append(command)
            status, lines = work(stage) if "pipelines.commands.repro" in command else (0, [])
            for line in lines:
                say(line)
            return status, lines

        monkeypatch.setattr(assets, "run_logged", stub)
        made = next(item for item in definitions("smoke").assets if item.op.name == stage)
        config = {"ops": {stage: {"config": {"force": force}}}}
        result = dg.materialize([made], instance=instance, run_config=config, raise_on_error=False)
        return result, called[0]

    return go


def test_a_stage_shows_rows_tokens_bytes_plot_duration_and_hash(press, runs):
    def work(stage):
        runs.gate_report("documents", "corpus", True)
        runs.add("tokenization", 1)
        runs.add(stage, 2, lr=0.01)
        return 0, ["step 1", "step 2"]

    result, command = press("pretrain", work)
    assert result.success
    assert command[2:] == ["pipelines.commands.repro", "--env", "smoke", "--stage", "pretrain"]
    shown = {
        event.asset_key.to_user_string(): event.materialization for event in result.get_asset_materialization_events()
    }
    assert set(shown) == set(graph.stage_graph("pretrain").outputs)
    history = shown["pretrain_history"].metadata
    assert history["seconds"].value == 30.0
    assert history["metric/train_tokens"].value == 1000
    assert history["bytes"].value > 0
    assert history["plots"].value.startswith("![loss](data:image/png;base64,")
    assert shown["pretrain_metrics"].metadata["metric/loss"].value == 2.5
    for name, event in shown.items():
        assert event.metadata["hash"].value == graph.digest_of("smoke", name) == event.tags["dagster/data_version"]


def gate_verdicts(result):
    return [verdict for verdict in result.get_asset_check_evaluations() if verdict.check_name == CHECK]


def test_rows_and_the_gate_s_verdict_are_shown(press, runs):
    def work(stage):
        runs.add(stage, 1)
        runs.gate_report("documents", stage, True)
        return 0, []

    result, _ = press("corpus", work)
    documents = next(e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey("documents"))
    assert documents.materialization.metadata["dagster/row_count"].value == 7
    (verdict,) = gate_verdicts(result)
    assert (verdict.check_name, verdict.passed) == (CHECK, True)
    assert "| ✔ | row_count | 7 | some rows |" in verdict.metadata["verdict"].value


def test_a_refused_table_fails_its_check_and_the_run_names_the_reason(press, runs):
    def work(stage):
        runs.gate_report("documents", stage, False)
        return 1, ["noise", "error: documents was refused by its gate: row_count is 0", "ERROR: failed to reproduce"]

    result, _ = press("corpus", work)
    assert not result.success
    (verdict,) = gate_verdicts(result)
    assert not verdict.passed
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert (
        "stage corpus failed: documents was refused by its gate: row_count is 0"
        in failure.event_specific_data.error.message
    )
    assert not result.get_asset_materialization_events()


def test_the_reason_is_read_from_the_run_record_before_the_output(press, runs):
    """DVC's last line names its command, and a traceback may push the reason out of the kept lines."""
    runs.add("corpus", 1, outcome="failed")
    os.utime(next((runs.root / "data/smoke/.runs/corpus").glob("*.json")), (0, 0))  # an older run's: of no interest

    def work(stage):
        return 1, ["ERROR: failed to reproduce 'corpus': failed to run: kedro run"]

    def failed(work):
        result, _ = press("corpus", work)
        return next(event for event in result.all_events if event.is_step_failure).event_specific_data.error.message

    assert "stage corpus failed: ERROR: failed to reproduce" in failed(work)

    def leaves_a_record(stage):
        runs.add(stage, 2, outcome="failed")
        return work(stage)

    assert "stage corpus failed: the disk is full" in failed(leaves_a_record)


def test_a_stage_with_several_gates_reports_each(press, runs):
    tables = gated(graph.stage_graph("tooluse").outputs)

    def work(stage):
        runs.add(stage, 1)
        for table in tables:
            runs.gate_report(table, stage, True)
        return 0, []

    result, _ = press("tooluse", work)
    assert result.success
    assert len(tables) > 1
    assert {verdict.asset_key.to_user_string() for verdict in gate_verdicts(result)} == set(tables)


def test_force_is_passed_on(press, runs):
    def work(stage):
        runs.add(stage, 1)
        runs.gate_report("documents", stage, True)
        return 0, []

    _, command = press("corpus", work, force=True)
    assert "--force" in command


def test_while_a_run_inside_dagster_is_at_a_stage_no_sensor_reports_it(press, runs, instance):
    events = []

    def work(stage):
        runs.gate_report("documents", stage, True)
        runs.add(stage, 1)
        runs.add("rephrase", 2)
        events.extend(event.asset_key.to_user_string() for event in report.unreported(instance, "smoke"))
        return 0, []

    press("corpus", work)
    assert set(events) == set(graph.stage_graph("rephrase").outputs)


def test_a_run_inside_dagster_is_not_reported_a_second_time(press, runs, instance):
    def work(stage):
        runs.add(stage, 1)
        runs.gate_report("documents", stage, True)
        return 0, []

    press("corpus", work)
    assert list(report.unreported(instance, "smoke")) == []
