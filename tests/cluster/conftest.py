"""Fixtures for the tests of a real Slurm: a scratch repository for all workers, and one cluster for each worker."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.cluster import training
from tests.cluster.harness import Cluster
from tests.leaks import watched

TOGETHER = ("test_harness.py", "test_accounting.py", "test_partition.py")
"""Modules whose tests one worker does. They come first, for most need no scratch repository: another prepares it."""
LONG = (
    *("test_time_is_up", "test_warned_before_its_time_is_up", "test_slurmd_killed", "test_slurmstepd_killed"),
    *("test_controller_killed_before", "test_controller_forgets_the_job_and_gives_its_id_to_another"),
    *("test_controller_killed_and_the_job_ends_before_it_is_back",),
)
"""They wait a minute or more, most of it for Slurm's own clocks: begun last they would be waited for alone."""


class Scheduler(LoadScopeScheduling):
    """A module of TOGETHER is one piece of work, any other test another; the largest first, then in order.

    As xdist's groups would have it, which xdist 3.8 does not see under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::", maxsplit=1)[0]
        return module if module.endswith(TOGETHER) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Return the scheduler that assigns tests to workers."""
    return Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first."""
    items.sort(key=lambda item: item.name not in LONG)


@pytest.fixture(autouse=True)
def surroundings() -> Iterator[None]:
    """Every test leaves what it met, but for daemons of the worker's cluster, which a test may start again."""
    yield from watched(children_too=False)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return training.prepare(shared / "prepared")


@pytest.fixture(scope="session")
def lasting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def cluster(lasting_cluster: Cluster) -> Cluster:
    """A cluster that is well and has no job."""
    lasting_cluster.mend()
    return lasting_cluster


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, prepared: Path, lasting_cluster: Cluster) -> training.Training:
    """Its path holds a blank, as a path may: all that goes through Slurm's hands has to be quoted."""
    return training.Training(tmp_path_factory.mktemp("repository") / "a project", prepared, lasting_cluster)


@pytest.fixture(name="training")
def fixture_training(cluster: Cluster, repository: training.Training) -> training.Training:
    """The stage, never run, on that cluster."""
    repository.reset()
    return repository
