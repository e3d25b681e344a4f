"""A scratch repository to write run records in, and one MLflow database for all tests (its migration is slow)."""

from pathlib import Path

import pytest

from tests.runs import Runs


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def add_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    return Runs(tmp_path, monkeypatch).add
