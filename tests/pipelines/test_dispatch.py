"""The profiles' compute classes: every class parses, and every job for Slurm renders."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from engine.errors import UserError
from engine.launch.compute import ComputeClass, check_compute, compute_class, overlaid
from engine.parallel.layout import Layout
from pipelines import graph
from pipelines.dispatch import Work, refuse_schedule
from pipelines.stages_file import COMPUTE_CLASSES, ROOT, load_stages_file


@pytest.mark.parametrize("profile", load_stages_file().profiles)
def test_every_profile_has_all_classes(profile: str) -> None:
    check_compute(graph.config(profile, "compute"), COMPUTE_CLASSES)


def works(profile: str) -> list[Work]:
    """Return all nodes of the graph, with the profile's compute classes."""
    compute, all_works = graph.config(profile, "compute"), []
    for name, stage in load_stages_file().stages.items():
        where = compute_class(compute, stage.compute)
        workspace = ROOT / "data" / profile / ".work" / name / "key"
        nodes = graph.stage_graph(name).pipeline.nodes
        all_works += [Work(profile, name, node, "key", workspace, where) for node in nodes]
    return all_works


def script(work: Work) -> str:
    from engine.launch.slurm.script import render

    return render(work.job)


@pytest.mark.parametrize(
    ("profile", "nodes", "layout"),
    [("moonlight", 8, "pp 1, vpp 1, ep 8, "), ("k2", 32, "pp 16, vpp 2, ep 16, ")],
)
def test_cluster_profiles_render(profile: str, nodes: int, layout: str) -> None:
    scripts = {work.name: script(work) for work in works(profile)}
    together = "\n".join(f"bash -n <<'JOB' || exit 1\n{text}\nJOB" for text in scripts.values())
    subprocess.run(["bash", "-c", together], check=True)
    train = scripts["train_pretrain"]
    for words in (f"--nodes={nodes}", "--gres=gpu:h800:8", "--mem=0", "--exclusive", "--partition=h800"):
        assert f"#SBATCH {words}\n" in train
    for variable in ("NCCL_IB_HCA==mlx5_0,", "NCCL_IB_TC=106", "NCCL_SOCKET_IFNAME=bond0", "GLOO_SOCKET_IFNAME=bond0"):
        assert f"export {variable}" in train
    assert f"--processes=8 --nodes={nodes}" in train
    assert "--kernels=strict" in train
    assert "--kernels" not in scripts["write_shards"]
    (shown,) = (line for line in train.splitlines() if line.startswith("# layout: "))
    assert shown.startswith(f"# layout: {layout}")
    (line,) = (line for line in train.splitlines() if "--layout=" in line)
    (argument,) = (word for word in shlex.split(line) if word.startswith("--layout="))
    stated = TypeAdapter(Layout).validate_json(argument.removeprefix("--layout="))
    assert layout == f"pp {stated.pp}, vpp {stated.vpp}, ep {stated.ep}, "
    assert shown == f"# layout: {stated}, dp {nodes * 8 // (stated.pp * stated.ep)}"
    assert "layout" not in scripts["write_shards"]
    one_process = [name for name in scripts if not name.startswith("train_") or name == "train_tokenizer"]
    assert not any("layout=" in scripts[name] for name in one_process)
    assert "--gres" not in scripts["write_shards"]
    assert "#SBATCH --array=0,1,2" in scripts["write_shards"]


@pytest.mark.parametrize("profile", ["moonlight", "k2"])
def test_the_profiles_pipelines_have_enough_micro_batches(profile: str) -> None:
    for work in works(profile):
        refuse_schedule(work, "FILE", graph.parameters(profile).get(work.stage, {}))


@pytest.mark.parametrize(
    ("schedule", "kinds", "enough"),
    [("zero_bubble", {}, 2), ("interleaved_1f1b_warmup", {}, 4), ("interleaved_1f1b_warmup", {"a": 5, "b": 1}, 2)],
)
def test_a_schedule_needs_its_micro_batches(schedule: Any, kinds: dict[str, int], enough: int) -> None:
    where = ComputeClass(launcher="local", processes=4, layout=Layout(pp=2, schedule=schedule))
    (work,) = (replace(work, where=where) for work in works("smoke") if work.name == "train_sft")
    natural = {"windows": 0, "tokens": 9, "weight": 1.0}
    parameters = {"micro_batches": 2 * enough, **({"batch": {**kinds, "c": 0}, "natural": natural} if kinds else {})}
    refuse_schedule(work, "FILE", parameters)
    words = rf"^FILE, field layout\.schedule: {schedule} over pp 2 needs .* and sft.micro_batches leaves "
    with pytest.raises(UserError, match=words):
        refuse_schedule(work, "FILE", parameters | {"micro_batches": 2 * enough - 2})


def test_a_layout_that_does_not_fit_stops_a_stage_before_anything_is_submitted_or_written(tmp_path: Path) -> None:
    environment = {**os.environ, "K2_COMPUTE": str(tmp_path / "compute.yml")}
    (tmp_path / "compute.yml").write_text("train: { launcher: local, processes: 3, layout: { pp: 3 } }\n")
    command = [sys.executable, "-m", "kedro", "run", "--env", "smoke", "--pipelines", "pretrain"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    said = f"{tmp_path / 'compute.yml'}: class train, field layout: pp 3 times vpp 1 are 3 stages, and"
    assert said in " ".join(run.stderr.split())


@pytest.mark.parametrize("profile", ["smoke", "laptop", "h200"])
def test_other_profiles_need_no_slurm(profile: str) -> None:
    assert {work.where.launcher for work in works(profile)} <= {"inplace", "local"}


def test_a_file_takes_the_place_of_classes_whole(tmp_path: Path) -> None:
    own = tmp_path / "compute.yml"
    own.write_text("train: { launcher: slurm, time: '10' }\n")
    base = {"cpu": {"launcher": "inplace"}, "train": {"launcher": "local", "processes": 2}}
    assert overlaid(base, str(own)) == {"cpu": base["cpu"], "train": {"launcher": "slurm", "time": "10"}}
    assert overlaid(base, None) == base
