"""slurmdbd and sacct: the launcher reads them once the controller has forgotten a job, and never before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.launch.slurm import client
from engine.launch.slurm.states import UNDER_WAY, State, judge
from tests.cluster.daemon import holds
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.slow
PATIENCE = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), accounting=True) as running:
        yield running


@pytest.fixture(autouse=True)
def in_this_shell(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])


def submit(tmp_path: Path, key: str, script: str) -> str:
    """Submit a job on two nodes as the launcher does, and return its id."""
    path = tmp_path / "job.sbatch"
    path.write_text(
        f"#!/bin/bash\n#SBATCH --nodes=2 --gres=gpu:h800:8 --output={tmp_path}/output --requeue\n{script}\n"
    )
    return client.sbatch(path, key)


def wait_for(job: str, state: str) -> client.JobStatus:
    """Return the database's record once it has `state`, which takes some seconds."""

    def says() -> bool:
        return [record.state for record in client.history(job)] == [state]

    assert holds(says, PATIENCE), client.history(job)
    return client.history(job)[0]


def test_ends_stand_in_the_database_under_their_keys(cluster: Cluster, tmp_path: Path) -> None:
    record = wait_for(submit(tmp_path, "k-done", "srun true"), "COMPLETED")
    assert (record.comment, record.code, record.signal) == ("k-done", 0, 0)
    failed = wait_for(submit(tmp_path, "k-failed", "exit 3"), "FAILED")
    assert (failed.comment, failed.code, judge(failed, None).state) == ("k-failed", 3, State.FAILED_APP)
    job = submit(tmp_path, "k-cancelled", "sleep 1000")
    assert client.cancel(job)
    cancelled = wait_for(job, "CANCELLED")
    assert (cancelled.by, judge(cancelled, None).state) == ("0", State.CANCELLED)


def test_a_requeued_job_looks_ended_in_the_database_but_not_to_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(tmp_path, "k-requeued", "sleep 1000")
    assert holds(lambda: cluster.job(job)["JobState"] == "RUNNING", PATIENCE)
    assert client.requeue(job) == ""
    assert wait_for(job, "REQUEUED").attempt == 0
    (report,) = client.show(job) or []
    assert judge(report, None).state in UNDER_WAY
    assert client.cancel(job)


def test_the_controller_has_lost_its_state_and_the_database_knows(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(tmp_path, "k-forgotten", "exit 5")
    assert holds(lambda: cluster.job(job)["JobState"] == "FAILED", PATIENCE)
    wait_for(job, "FAILED")
    cluster.kill_controller()
    shutil.rmtree(cluster.root / "state")
    (cluster.root / "state").mkdir(mode=0o700)
    cluster.start_controller()
    assert client.show(job) is None
    (record,) = client.history(job)
    assert (record.comment, record.code, judge(record, None).state) == ("k-forgotten", 5, State.FAILED_APP)


def test_accounting_counts_gpus(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(tmp_path, "k-gpus", "srun true")
    wait_for(job, "COMPLETED")
    assert "gres/gpu:h800=16" in cluster.command("sacct", "-X", "-n", "-P", "-j", job, "-o", "alloctres")


def test_the_daemons_and_srun_listen_on_a_loopback_address_alone(cluster: Cluster, tmp_path: Path) -> None:
    submit(tmp_path, "k-listens", f"srun sh -c 'touch {tmp_path}/begun; sleep 1000'")
    assert holds((tmp_path / "begun").exists, PATIENCE)
    (address,) = cluster.addresses()
    assert address.startswith("127.")
    cluster.cancel_all()
