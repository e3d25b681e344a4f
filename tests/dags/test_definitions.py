"""Dagster's definitions: quick to load, and exactly what manifest, pipelines and catalog say."""

import json
import os
import subprocess
import sys

import dagster as dg
import pytest

from dags.definitions import definitions
from dags.lineage import dependencies, gated
from pipelines import graph
from pipelines.manifest import ROOT, load_manifest

STAGES = load_manifest().stages
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
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    data = [stage for stage, spec in STAGES.items() if spec.group == "data"]
    assert found["picked"] == sum(len(graph.stage_graph(stage).outputs) for stage in data) + 1
    assert found["cpu"] < 6, "1.5 s on a quiet machine; this bound only catches a heavy import on a busy one"


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


def test_what_a_stage_hangs_on_is_what_its_pipeline_reads():
    for stage in STAGES:
        outline = graph.stage_graph(stage)
        found = {name for output in outline.outputs for name in dependencies(stage, output)}
        assert found - set(outline.outputs) == set(outline.inputs)


def test_a_stage_is_one_asset_definition_that_runs_whole(defs):
    made = {item.op.name: item for item in defs.assets}
    assert list(made) == list(STAGES)
    for stage, item in made.items():
        assert not item.can_subset
        assert {key.to_user_string() for key in item.keys} == set(graph.stage_graph(stage).outputs)


def test_every_gated_table_has_one_check(defs):
    checks = {check.asset_key.to_user_string() for check in defs.resolve_asset_graph().asset_check_keys}
    gates = graph.config(None, "gates")
    assert checks == {name for stage in STAGES for name in gated(graph.stage_graph(stage).outputs)}
    assert checks == {name for name in gates if not name.startswith("_")}


def test_an_unknown_profile_is_refused():
    from engine.errors import UserError

    with pytest.raises(UserError, match="there is no profile 'lptop'"):
        definitions("lptop")
