"""What the tests of a real Slurm share: the scratch repository that they copy, made once also for several workers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import training
from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return training.prepare(shared / "prepared")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, prepared: Path, cluster: Cluster) -> training.Training:
    return training.Training(tmp_path_factory.mktemp("repository") / "project", prepared, cluster)
