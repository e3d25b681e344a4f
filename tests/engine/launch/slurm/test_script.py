"""The sbatch file: a header as the class says, a body that bash understands, and a clean run on this machine."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.launch.compute import ComputeClass, Container
from engine.launch.slurm.script import Job, render
from engine.training.position import RESUME

TRAIN = ComputeClass(
    launcher="slurm", nodes=4, gpus_per_node=8, gres_type="h800", cpus_per_task=96, mem="0", exclusive=True,
    time="1-00:00:00", partition="h800", account="lab", exclude=("n7",), fabric={"NCCL_IB_HCA": "=mlx5_0,mlx5_1"},
    environment=("module load cuda",), drain_lead_s=600,
)  # fmt: skip
MODULE = ("pipelines.rank", "--env=k2", "--stage=pretrain", "--node=train", "--key=0123")


def job(path: Path, **changes: Any) -> Job:
    given = Job("k2-train", path / "jobs" / "train", path, path, path, "train", MODULE, TRAIN, world=True)
    return replace(given, **changes)


def checked(text: str) -> str:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"@[A-Z]+@", text), "a value was not put in"
    return text


def header(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_a_job_on_several_nodes(tmp_path: Path) -> None:
    text = checked(render(job(tmp_path, exclude=("n9", "n7"))))
    assert header(text) == {
        "job-name": "k2-train", "partition": "h800", "account": "lab", "nodes": "4", "ntasks-per-node": "1",
        "gres": "gpu:h800:8", "cpus-per-task": "96", "mem": "0", "exclusive": "", "wait-all-nodes": "1",
        "time": "1-00:00:00", "signal": "B:USR1@600", "exclude": "n7,n9", "requeue": "", "open-mode": "append",
        "export": "ALL", "chdir": str(tmp_path), "output": f"{tmp_path}/jobs/train/slurm-%j.out",
    }  # fmt: skip
    assert "export NCCL_IB_HCA==mlx5_0,mlx5_1\n" in text
    assert "\nmodule load cuda\n" in text
    assert "-m engine.launch.torchrun --processes=8 --nodes=4" in text
    assert "--key=0123 --world >&4; echo $?)" in text
    assert "nvidia-smi -L" in text
    assert "scontrol requeue" in text


def test_the_word_that_allows_another_torch_reaches_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RESUME, raising=False)
    assert RESUME not in render(job(tmp_path))
    monkeypatch.setenv(RESUME, "close")
    assert f"export {RESUME}=close\n" in checked(render(job(tmp_path)))


def test_paths_with_what_sbatch_would_take_for_an_end_are_quoted(tmp_path: Path) -> None:
    """The real sbatch reads such a script in tests/cluster: all of that suite's paths hold a blank."""
    text = checked(render(job(tmp_path / 'a "b" #1%j', code=tmp_path / "c d")))
    quoted = f'{tmp_path}/a \\"b\\" #1'
    assert f'#SBATCH --chdir="{quoted}%j"\n' in text
    assert f'#SBATCH --output="{quoted}%%j/jobs/train/slurm-%j.out"\n' in text
    assert f"export PYTHONPATH='{tmp_path}/c d'${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1\n" in text


def test_one_process_needs_neither_torchrun_nor_a_meeting_place(tmp_path: Path) -> None:
    text = checked(render(job(tmp_path, world=False)))
    assert header(text)["nodes"] == "1"
    for word in ("torchrun", "MASTER_ADDR", "--world", "--label \\"):
        assert word not in text
    assert "-m pipelines.rank --env=k2 " in text


def test_a_class_without_gpus_and_drain(tmp_path: Path) -> None:
    text = checked(render(job(tmp_path, where=ComputeClass(launcher="slurm", time="10", drain_lead_s=0))))
    assert not {"gres", "signal", "exclusive", "partition"} & set(header(text))
    for word in ("nvidia-smi", "USR1", "scontrol requeue"):
        assert word not in text


def test_an_array(tmp_path: Path) -> None:
    text = checked(render(job(tmp_path, world=False, elements=(1, 3), shards=4)))
    assert header(text)["array"] == "1,3"
    assert header(text)["output"].endswith("slurm-%A_%a.out")
    assert f"RUN_DIR={tmp_path}/jobs/train/element-$SLURM_ARRAY_TASK_ID\n" in text
    assert '--shard="$SLURM_ARRAY_TASK_ID" --shards=4' in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pyxis", ["--container-image=/k2.img", "/here:/there", "python3 -m engine"]),
        ("apptainer", ["apptainer exec --nv --bind", "--bind /here:/there", "/k2.img python3 -m engine"]),
    ],
)
def test_containers(tmp_path: Path, kind: str, words: list[str]) -> None:
    where = TRAIN.model_copy(update={"container": Container(kind=kind, image="/k2.img", mounts=("/here:/there",))})
    text = checked(render(job(tmp_path, where=where)))
    for word in words:
        assert word in text


def run(path: Path, ranks: str, where: ComputeClass | None = None) -> tuple[int, dict[str, object]]:
    """Run a one-process script's real text here, with `ranks` in the place of srun; exit code and exit.json."""
    tools = path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(f"#!/bin/bash\n{ranks}\n")
    (tools / "srun").chmod(0o755)
    text = render(job(path, world=False, where=where or ComputeClass(launcher="slurm", time="10")))
    text = text.replace("export PATH=", f"export SCRIPT=$$ PATH={tools}:", 1)
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", text], env=environment, check=False, timeout=60, capture_output=True)
    return done.returncode, json.loads((path / "jobs" / "train" / "exit.json").read_bytes())


def test_success_is_reported(tmp_path: Path) -> None:
    code, left = run(tmp_path, 'touch "$K2_RUN_DIR/DONE"')
    del left["ended"]
    assert (code, left) == (0, {"job": "7", "attempt": 0, "rc": 0, "drain": False, "done": True, "failed": False})


@pytest.mark.parametrize(
    ("ranks", "rc", "failed"), [("exit 7", 7, True), ("kill -9 $$", 137, False), ("exit 85", 85, False)]
)
def test_other_ends_are_reported(tmp_path: Path, ranks: str, rc: int, failed: bool) -> None:
    code, left = run(tmp_path, ranks)
    assert (code, left["rc"], left["failed"]) == (rc, rc, failed)


def test_a_cancelled_script_ends_after_its_srun_and_reports_nothing(tmp_path: Path) -> None:
    """Slurm's signal comes to all of them, the shell around srun too; what srun does then must be done in time."""
    last = tmp_path / "last"
    ending = f"sleep 1; grep State /proc/$SCRIPT/status > {last}; exit 143"
    ranks = f"trap '{ending}' TERM; kill $SCRIPT $PPID $$; while :; do sleep 0.02; done"
    with pytest.raises(FileNotFoundError, match=r"exit\.json"):
        run(tmp_path, ranks)
    assert "sleeping" in last.read_text(), "the script was gone before its srun"


@pytest.mark.parametrize("then", ["", "exit 85;"], ids=["a step later", "at the same moment"])
def test_a_warning_reaches_the_ranks_as_a_file(tmp_path: Path, then: str) -> None:
    """The ranks' exit code is not mistaken where they end just as the shell is woken."""
    ranks = f'kill -USR1 $SCRIPT; {then} until [ -e "$K2_RUN_DIR/drain" ]; do sleep 0.02; done; exit 85'
    code, left = run(tmp_path, ranks)
    assert (code, left["rc"], left["drain"], left["failed"]) == (85, 85, True, False)
