"""A scratch repository to write run records in, and Dagster without a home."""

import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from engine.identity.fingerprint import StageCode
from pipelines import graph
from tests.runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    record_folder = Runs(tmp_path, monkeypatch)
    code = StageCode({}, {}, {}, {})  # the scratch repository holds none
    monkeypatch.setattr(graph, "code_of", lambda *_: code)
    return record_folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture(autouse=True)
def terminable() -> Iterator[None]:
    """Restore the SIGTERM handler, which Dagster replaces when it has run something in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
