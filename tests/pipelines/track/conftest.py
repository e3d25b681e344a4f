"""A scratch repository to write run records in, and an MLflow database for each module of tests."""

import shutil
from pathlib import Path

import pytest

from tests.runs import Runs


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with MLflow's tables, whose migrations are slow."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def database(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    shutil.copyfile(migrated, path)
    return f"sqlite:///{path}"


@pytest.fixture
def add_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    return Runs(tmp_path, monkeypatch).add
