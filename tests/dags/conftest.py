"""A scratch repository to write run records in, and Dagster without a home."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made
