"""The profiles' compute classes: every class parses, and every job for Slurm renders."""

import subprocess
from pathlib import Path

import pytest

from engine.launch.compute import check_compute, compute_class, overlaid
from pipelines import graph
from pipelines.dispatch import Work
from pipelines.stages_file import COMPUTE_CLASSES, ROOT, load_stages_file


@pytest.mark.parametrize("profile", load_stages_file().profiles)
def test_every_profile_has_all_classes(profile: str) -> None:
    check_compute(graph.config(profile, "compute"), COMPUTE_CLASSES)


def works(profile: str) -> list[Work]:
    """Return all nodes of the graph, with the profile's compute classes."""
    compute, all_works = graph.config(profile, "compute"), []
    for stage in load_stages_file().stages.values():
        where = compute_class(compute, stage.compute)
        workspace = ROOT / "data" / profile / ".work" / stage.name / "key"
        nodes = graph.stage_graph(stage.name).pipeline.nodes
        all_works += [Work(profile, stage.name, node, "key", workspace, where) for node in nodes]
    return all_works


def script(work: Work) -> str:
    from engine.launch.slurm.script import render

    return render(work.job)


@pytest.mark.parametrize(("profile", "nodes"), [("moonlight", 8), ("k2", 32)])
def test_cluster_profiles_render(profile: str, nodes: int) -> None:
    scripts = {work.name: script(work) for work in works(profile)}
    together = "\n".join(f"bash -n <<'JOB' || exit 1\n{text}\nJOB" for text in scripts.values())
    subprocess.run(["bash", "-c", together], check=True)
    train = scripts["train_pretrain"]
    for words in (f"--nodes={nodes}", "--gres=gpu:h800:8", "--mem=0", "--exclusive", "--partition=h800"):
        assert f"#SBATCH {words}\n" in train
    for variable in ("NCCL_IB_HCA==mlx5_0,", "NCCL_IB_TC=106", "NCCL_SOCKET_IFNAME=bond0", "GLOO_SOCKET_IFNAME=bond0"):
        assert f"export {variable}" in train
    assert f"--processes=8 --nodes={nodes}" in train
    assert "--gres" not in scripts["write_shards"]
    assert "#SBATCH --array=0,1,2" in scripts["write_shards"]


@pytest.mark.parametrize("profile", ["smoke", "laptop", "h200"])
def test_other_profiles_need_no_slurm(profile: str) -> None:
    assert {work.where.launcher for work in works(profile)} <= {"inplace", "local"}


def test_a_file_takes_the_place_of_classes_whole(tmp_path: Path) -> None:
    own = tmp_path / "compute.yml"
    own.write_text("train: { launcher: slurm, time: '10' }\n")
    base = {"cpu": {"launcher": "inplace"}, "train": {"launcher": "local", "processes": 2}}
    assert overlaid(base, str(own)) == {"cpu": base["cpu"], "train": {"launcher": "slurm", "time": "10"}}
    assert overlaid(base, None) == base
