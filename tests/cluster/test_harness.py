"""The cluster that the other tests run on: it schedules GPUs, survives what is killed, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.errors import UserError
from tests.cluster import daemon
from tests.cluster.daemon import wait_until
from tests.cluster.harness import Cluster
from tests.project import ROOT

pytestmark = pytest.mark.slow


def submit(cluster: Cluster, output: Path, script: str, *words: str) -> str:
    """Submit a job and return its id."""
    return cluster.command("sbatch", "--parsable", f"--output={output}", *words, f"--wrap={script}")


def wait_for(cluster: Cluster, job: str, state: str) -> None:
    """Wait until the controller says `state` of the job."""
    wait_until(lambda: cluster.job(job)["JobState"] == state, f"job {job} {state}", cluster.root / "log/slurmctld.log")


def test_a_job_on_two_nodes_sees_eight_gpus_on_each(cluster: Cluster, tmp_path: Path) -> None:
    outputs = tmp_path / "output"
    script = "srun bash -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    job = submit(cluster, outputs, script, "--nodes=2", "--gres=gpu:h800:8")
    wait_for(cluster, job, "COMPLETED")
    assert sorted(outputs.read_text().split("\n")) == ["", "h800-0 0,1,2,3,4,5,6,7", "h800-1 0,1,2,3,4,5,6,7"]


def test_a_job_outlives_controller_and_slurmd(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = submit(cluster, tmp_path / "output", f"until [ -e {gate} ]; do sleep 0.1; done", "--nodelist=h800-1")
    wait_for(cluster, job, "RUNNING")
    wait_until(
        lambda: {"slurmstepd", "slurm_script"} <= {process.name() for process in cluster.job_processes("h800-1")},
        "the job's script",
        cluster.root / "log/slurmd-h800-1.log",
    )
    assert cluster.job_processes("h800-0") == []
    cluster.kill_node("h800-1")
    cluster.wait_for_saved_state()
    cluster.kill_controller()
    assert not cluster.controller.alive
    cluster.start_controller()
    cluster.start_node("h800-1")
    gate.touch()
    wait_for(cluster, job, "COMPLETED")


def test_a_node_goes_down_and_comes_up_again(cluster: Cluster) -> None:
    cluster.node_down("h800-2")
    assert cluster.state("h800-2").startswith("DOWN")
    cluster.node_up("h800-2")
    assert cluster.state("h800-2") == "IDLE"


def test_nothing_is_left_when_a_test_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    """This includes the job's processes on a node whose slurmd and slurmstepd are dead."""
    root = tmp_path_factory.mktemp("left")  # the test's own folder is named too long for a socket
    # the block is the test that fails: what is looked at is what its end leaves
    with pytest.raises(ZeroDivisionError), Cluster(root / "c") as cluster:  # noqa: PT012
        wait_for(cluster, submit(cluster, root / "output", "sleep 1000", "--nodelist=h800-0"), "RUNNING")
        started = [*cluster.job_processes(), *(node.process for node in cluster.nodes.values())]
        started += [cluster.controller.process, cluster.munged.process, *cluster.controller.process.children()]
        cluster.kill_node("h800-0")
        cluster.job_processes("h800-0")[0].kill()
        raise ZeroDivisionError
    _, alive = psutil.wait_procs([process for process in started if process], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert cluster.job_processes() == []


def test_make_cluster(tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    command = [sys.executable, "-m", "tests.cluster", "--root", str(root)]
    try:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=110)
        assert f"export SLURM_CONF={root}/etc/slurm.conf" in process.stdout
        environment = {**os.environ, "SLURM_CONF": f"{root}/etc/slurm.conf"}
        command_line = ["sinfo", "-h", "-N", "-o", "%N"]
        nodes = subprocess.run(command_line, env=environment, capture_output=True, text=True, check=True).stdout
        assert set(nodes.split()) == {"h800-0", "h800-1", "h800-2"}
    finally:
        subprocess.run([*command, "--stop"], cwd=ROOT, check=True, timeout=110)
    assert not root.exists()


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install .*munge slurm-client slurmctld slurmd"):
        Cluster(tmp_path / "cluster").start()


def test_a_directory_that_slurm_cannot_spell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plain letters"):
        Cluster(tmp_path / "it's own").start()


def test_a_missing_privilege_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="needs root"):
        Cluster(tmp_path / "cluster").start()
