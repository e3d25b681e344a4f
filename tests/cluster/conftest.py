"""What the tests of a real Slurm share: a scratch repository, made once for all workers, and a worker's one cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import training
from tests.cluster.harness import Cluster

BARE = ("test_harness", "test_accounting")
"""Modules that need no scratch repository: they run while another worker prepares it for all."""
LONG = (
    *("test_time_is_up", "test_warned_before_its_time_is_up", "test_slurmd_killed", "test_slurmstepd_killed"),
    *("test_controller_forgets_the_job_and_gives_its_id_to_another",),
    *("test_controller_killed_and_the_job_ends_before_it_is_back",),
)
"""They wait a minute or more, most of it for Slurm's own clocks: begun last they would be waited for alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the bare and the long ones first: workers take tests in this order."""
    items.sort(key=lambda item: 0 if item.path.stem in BARE else 1 if item.name in LONG else 2)


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
