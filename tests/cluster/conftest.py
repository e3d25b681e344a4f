"""What the tests of a real Slurm share: the scratch repository that they copy, made once also for several workers."""

import os
from pathlib import Path

import pytest

from tests.cluster import training


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return training.prepare(shared / "prepared")
