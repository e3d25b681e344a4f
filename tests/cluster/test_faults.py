"""Everything that may befall a two-node training job: resumed without a person where it can, in the very same bits.

What Slurm says in each case stands in the table of engine/launch/slurm/states.py. Each test ends with the undisturbed
run's weights, history and final state, no step lost or doubled, and never two jobs for one key.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.training import Training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, prepared: Path, cluster: Cluster) -> Training:
    return Training(tmp_path_factory.mktemp("repository") / "project", prepared, cluster)


@pytest.fixture
def training(repository: Training, cluster: Cluster) -> Training:
    """The stage, never run, on a cluster that is well and has no job."""
    cluster.start()
    cluster.cancel_all()
    for process in cluster.job_processes():
        process.kill()
    for name in cluster.nodes:
        cluster.node_up(name)
    repository.reset()
    return repository


def test_undisturbed(training: Training) -> None:
    """A job ends in the same bits as two processes on this machine do."""
    record = training.check_end(training.start(), jobs=1, attempts=1, first=0)
    assert record["jobs"]["train_pretrain"]["nodes"] == ["h800-0", "h800-1"]


def test_requeued(training: Training, cluster: Cluster) -> None:
    driver = training.start()
    training.stop_in_the_middle(driver)
    kept = training.checkpoint()
    cluster.scontrol("requeue", training.job)
    training.check_end(driver, jobs=1, attempts=2, first=kept)
