"""What the tests of a real Slurm share: a scratch repository, made once for all workers, and a worker's one cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import training
from tests.cluster.harness import Cluster

LONG = ("test_time_is_up", "test_warned_before_its_time_is_up", "test_slurmd_killed", "test_slurmstepd_killed")
"""They wait for minutes, most of it for Slurm's own clocks: begun last they would be waited for alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the long ones first, for all workers hand out tests in this order."""
    items.sort(key=lambda item: item.name not in LONG)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return training.prepare(shared / "prepared")


@pytest.fixture(scope="session")
def lasting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def cluster(lasting_cluster: Cluster) -> Cluster:
    """A cluster that is well and has no job."""
    lasting_cluster.mend()
    return lasting_cluster


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, prepared: Path, lasting_cluster: Cluster) -> training.Training:
    return training.Training(tmp_path_factory.mktemp("repository") / "project", prepared, lasting_cluster)


@pytest.fixture(name="training")
def fixture_training(cluster: Cluster, repository: training.Training) -> training.Training:
    """The stage, never run, on that cluster."""
    repository.reset()
    return repository
