"""Dagster's definitions: quick to load, and exactly what kedro.yml, pipelines and catalog say."""

import json
import os
import subprocess
import sys

import dagster as dg
import pytest

from dags.assets import GPU
from dags.checks import CHECK, PLAN
from dags.definitions import definitions, executor
from dags.lineage import dependencies, gated
from pipelines import graph
from pipelines.stages_file import ROOT, load_stages_file

STAGES = load_stages_file().stages
LOAD = """
import json, sys, time
import dags.definitions
import dagster as dg
assets = dags.definitions.defs.resolve_asset_graph()
picked = dg.AssetSelection.from_string("group:data or key:rl_checkpoint").resolve(assets)
heavy = [name for name in ("torch", "mlflow", "great_expectations", "polars", "pandas", "numpy") if name in sys.modules]
print(json.dumps({"heavy": heavy, "picked": len(picked), "cpu": time.process_time()}))
"""


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return definitions("smoke")


def test_loading_imports_nothing_heavy_and_string_selections_parse():
    environment = {**os.environ, "K2_PROFILE": "smoke"}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["heavy"] == []
    data = [stage for stage, spec in STAGES.items() if spec.group == "data"]
    assert report["picked"] == sum(len(graph.stage_graph(stage).outputs) for stage in data) + 1
    assert report["cpu"] < 6, "1.5 s on a quiet machine; this bound only catches a heavy import on a busy one"


def test_assets_are_the_outputs_of_the_pipelines(defs):
    assets = defs.resolve_asset_graph()
    want = {name: stage for stage in STAGES for name in graph.stage_graph(stage).outputs}
    assert {key.to_user_string() for key in assets.get_all_asset_keys()} == set(want)
    assert set(want) == set(graph.catalog_entries(None)), "a dataset of the catalog that no pipeline makes"
    for name, stage in want.items():
        node = assets.get(dg.AssetKey(name))
        assert node.group_name == STAGES[stage].group
        assert node.owners == [f"team:{STAGES[stage].group}"]
        assert node.metadata["compute"] == STAGES[stage].compute
        assert node.description
        assert {key.to_user_string() for key in node.parent_keys} == set(dependencies(stage, name))


def test_a_stage_depends_on_what_its_pipeline_reads():
    for stage in STAGES:
        outline = graph.stage_graph(stage)
        inputs = {name for output in outline.outputs for name in dependencies(stage, output)}
        assert inputs - set(outline.outputs) == set(outline.inputs)


def test_a_stage_is_one_asset_definition_that_runs_whole(defs):
    definitions_by_name = {item.op.name: item for item in defs.assets}
    assert list(definitions_by_name) == list(STAGES)
    for stage, item in definitions_by_name.items():
        assert not item.can_subset
        assert {key.to_user_string() for key in item.keys} == set(graph.stage_graph(stage).outputs)


def test_every_gated_table_has_one_check(defs):
    keys = defs.resolve_asset_graph().asset_check_keys
    checks = {check.asset_key.to_user_string() for check in keys if check.name == CHECK}
    gates = graph.config(None, "gates")
    assert checks == {name for stage in STAGES for name in gated(graph.stage_graph(stage).outputs)}
    assert checks == {name for name in gates if not name.startswith("_")}


def test_every_asset_has_the_plan_s_word_as_a_check(defs):
    keys = defs.resolve_asset_graph().asset_check_keys
    planned = {check.asset_key.to_user_string() for check in keys if check.name == PLAN}
    assert planned == {name for stage in STAGES for name in graph.stage_graph(stage).outputs}


def test_training_stages_share_the_pool_of_gpus(defs):
    pools = {item.op.name: item.op.pool for item in defs.assets}
    assert pools == {stage: GPU if spec.compute == "train" else None for stage, spec in STAGES.items()}


@pytest.mark.parametrize(
    ("selection", "first", "last"),
    [("sft_checkpoint*", "sft", "evaluate"), ("*sft_checkpoint", "corpus", "sft"), ("sft_checkpoint", "sft", "sft")],
)
def test_a_stage_its_ancestors_and_its_descendants_can_be_selected(defs, selection, first, last):
    assets = defs.resolve_asset_graph()
    picked = {key.to_user_string() for key in dg.AssetSelection.from_string(selection).resolve(assets)}
    stages = [stage for stage in STAGES if picked & set(graph.stage_graph(stage).outputs)]
    assert (stages[0], stages[-1]) == (first, last)


def test_each_stage_has_a_job_and_the_nightly_run_waits_for_someone_to_start_it(defs):
    jobs = {job.name: job for job in defs.resolve_all_job_defs()}
    assert {"whole_graph", *(f"only_{stage}" for stage in STAGES)} <= set(jobs)
    for stage in STAGES:
        executable = {key.to_user_string() for key in jobs[f"only_{stage}"].asset_layer.executable_asset_keys}
        assert executable == set(graph.stage_graph(stage).outputs)
    schedule = defs.resolve_schedule_def("nightly")
    assert (schedule.job_name, schedule.default_status) == ("whole_graph", dg.DefaultScheduleStatus.STOPPED)


def test_only_where_slurm_has_the_nodes_do_stages_of_one_run_go_at_once(monkeypatch):
    assert executor("laptop").name == "in_process"
    monkeypatch.setenv("K2_COMPUTE", str(ROOT / "tests/cluster/compute.yml"))
    assert executor("laptop").name == "multiprocess"
    monkeypatch.delenv("K2_COMPUTE")
    monkeypatch.setattr(graph, "config", lambda *_: {"cpu": {"launcher": "inplace"}, "train": {"launcher": "slurm"}})
    assert executor("k2").name == "multiprocess"


def test_an_unknown_profile_is_refused():
    from engine.errors import UserError

    with pytest.raises(UserError, match="there is no profile 'lptop'"):
        definitions("lptop")
