"""Export and import on the real graph: an exported checkpoint is the same artifact; another one moves later stages."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow


def test_import_brings_back_the_artifact_and_another_one_starts_what_follows(tmp_path, whole: Project):
    project = whole.copied(tmp_path / "k2")
    outputs, before = project.digests("pretrain"), project.runs()

    out = str(tmp_path / "out")
    export = ("--checkpoint", "base", "--dtype", "float32", "--out", out)
    project.run("python", "-m", "pipelines.commands.export", "--env", PROFILE, *export)
    adopt = ("python", "-m", "pipelines.commands.adopt", "--env", PROFILE, "--source", out)
    project.run(*adopt)
    assert project.ran_since(before) == ["pretrain"]
    weights = [name for name in outputs if name.startswith("base_checkpoint/")]
    assert weights
    assert {name: outputs[name] for name in weights} == {name: project.digests("pretrain")[name] for name in weights}
    plan = project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout
    assert "adopted from" in "".join(plan.split("\n")), plan
    before = project.runs()
    project.repro(f"{LEDGER}:extend")
    assert project.ran_since(before) == []

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shard = tmp_path / "out" / index["weight_map"]["lm_head.weight"]
    tensors = load_file(shard)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 1.5
    save_file(tensors, shard)
    project.run(*adopt)
    before = project.runs()
    project.repro(f"{LEDGER}:extend")
    assert project.ran_since(before) == ["extend"]
    assert torch.equal(
        load_file(project.data("pretrain", "base_checkpoint") / "model.safetensors")["lm_head.weight"],
        tensors["lm_head.weight"],
    )
