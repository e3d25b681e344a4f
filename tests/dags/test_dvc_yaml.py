"""The generated dvc.yaml files are what kedro.yml, pipelines and catalog say."""

import pytest
import yaml

from dags.dvc_yaml import dvc_view, render
from pipelines import graph
from pipelines.manifest import load_manifest

PROFILES = load_manifest().profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_committed_file_is_current(profile: str) -> None:
    assert graph.dvc_file(profile).read_text(encoding="utf-8") == render(profile), "run `make views`"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_stage_depends_on_its_inputs_and_its_own_code(profile: str) -> None:
    stages = yaml.safe_load(render(profile))["stages"]
    assert list(stages) == ["code", *load_manifest().stages]
    for stage in load_manifest().stages:
        outline = graph.stage_graph(stage)
        want = {f"data/{profile}/code/{stage}.json"} | {f"data/{profile}/{graph.producer(i)}/" for i in outline.inputs}
        assert all(any(dep.startswith(prefix) for prefix in want) for dep in stages[stage]["deps"])
        assert len(stages[stage]["deps"]) == len(outline.inputs) + 1
        outs = [*stages[stage]["outs"], *stages[stage]["metrics"]]
        assert len(outs) == len(outline.outputs)
        assert all(options == {"persist": True} for out in outs for options in out.values()), (
            "DVC deletes plain outs before a stage starts"
        )


def test_profiles_have_ledgers_of_their_own() -> None:
    assert len({graph.dvc_file(profile).parent for profile in PROFILES}) == len(PROFILES)
    outs = [
        next(iter(out))
        for profile in PROFILES
        for stage in dvc_view(profile)["stages"].values()
        for out in stage["outs"]
    ]
    assert len(set(outs)) == len(outs)
