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
    made = Runs(tmp_path, monkeypatch)
    code = StageCode({}, {}, {}, {})  # the scratch repository holds none
    monkeypatch.setattr(graph, "code_of", lambda *_: code)
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(autouse=True)
def terminable() -> Iterator[None]:
    """Dagster leaves a handler of its own on SIGTERM when it has run something in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
