"""The generated dvc.yaml files are what kedro.yml, pipelines and catalog say."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from dags.dvc_yaml import dvc_view, render
from pipelines import graph
from pipelines.stages_file import load_stages_file

PROFILES = load_stages_file().profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_committed_file_is_current(profile: str) -> None:
    assert graph.dvc_file(profile).read_text(encoding="utf-8") == render(profile), "run `make views`"


@pytest.mark.parametrize("profile", PROFILES)
def test_each_stage_depends_on_its_inputs_and_its_own_code(profile: str) -> None:
    stages = yaml.safe_load(render(profile))["stages"]
    assert list(stages) == ["code", *load_stages_file().stages]
    for stage in load_stages_file().stages:
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


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_stage_takes_the_shells_place_and_knows_who_started_it(shell: str, tmp_path: Path) -> None:
    kedro = tmp_path / "kedro"
    kedro.write_text('#!/bin/sh\necho $K2_PARENT $PPID "$@"\n')
    kedro.chmod(0o755)
    command = dvc_view("smoke")["stages"]["sft"]["cmd"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    output = subprocess.run([shell, "-c", command], env=environment, capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(os.getpid()), str(os.getpid()), *["run", "--env", "smoke", "--pipelines", "sft"]]


def test_cluster_profiles_track_large_artifacts_by_manifest():
    k2, laptop = dvc_view("k2")["stages"], dvc_view("laptop")["stages"]
    assert {"data/k2/pretrain/base_checkpoint/manifest.json": {"persist": True}} in k2["pretrain"]["outs"]
    assert "data/k2/pretrain/base_checkpoint/manifest.json" in k2["extend"]["deps"]
    assert {"data/k2/pretrain/pretrain_history": {"persist": True}} in k2["pretrain"]["outs"], "small: kept whole"
    assert {"data/laptop/pretrain/base_checkpoint": {"persist": True}} in laptop["pretrain"]["outs"]


def test_no_stage_depends_on_the_files_that_params_diff_reads():
    view = dvc_view("smoke")
    assert "../base/parameters/sft.yml" in view["params"]
    assert "parameters/sft.yml" in view["params"]
    assert not any("params" in stage for stage in view["stages"].values())
