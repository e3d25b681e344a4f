"""A small profile with run records and artifacts, and one MLflow database for all tests (its migration is slow)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import canonical_json, write_atomic
from engine.artifacts.manifest import seal
from engine.identity.records import write_record
from pipelines import graph
from pipelines.manifest import load_manifest

AddRun = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def add_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddRun:
    """Publish outputs of a stage in a scratch repository and write the record of the run that made them."""
    for profile in (None, *load_manifest().profiles):
        graph.catalog_entries(profile)  # read before the root moves away from the configuration
    monkeypatch.setattr(graph, "ROOT", tmp_path)

    def add(stage: str, at: int, profile: str = "smoke", outcome: str = "success", **parameters: Any) -> dict[str, Any]:
        outline = graph.stage_graph(stage)
        error = None if outcome == "success" else "the disk is full"
        outputs = (
            {name: _publish(profile, stage, name, parameters) for name in outline.outputs} if error is None else {}
        )
        record = {
            "stage": stage, "profile": profile, "key": f"{at:016x}", "outputs": outputs, "outcome": outcome, "error": error,
            "parts": {
                "code": {"modules": {}},
                "parameters": {f"{stage}.{name}": value for name, value in parameters.items()},
                "inputs": {name: str(graph.digest_of(profile, name)) for name in outline.inputs},
            },
            "started": f"2026-01-01T00:{at:02d}:00.000000+00:00", "finished": f"2026-01-01T00:{at:02d}:30.000000+00:00",
            "seconds": 30.0, "node_seconds": {"train": 25.0}, "host": "box", "commit": "c" * 40, "dirty": False, "user": "ann",
            "metrics": {"loss": 2.5, "note": "text"} if error is None else {}, "job_id": None, "attempt": 1,
        }  # fmt: skip
        path = write_record(tmp_path / "data" / profile / ".runs" / stage, record)
        return {**record, "path": path}

    return add


def _publish(profile: str, stage: str, name: str, parameters: dict[str, Any]) -> str:
    path = graph.dataset_path(profile, name)
    if path.suffix == ".json":
        write_atomic(path, canonical_json({"loss": 2.5}))
    else:
        path.mkdir(parents=True, exist_ok=True)
        (path / "content.txt").write_text(json.dumps(parameters))
        if name.endswith("_history"):
            rows = [
                {"step": step, "loss": 3.0 - step / 10, "experts": {"max": 2}, "heads": [1, 2], "bad": None}
                for step in range(5)
            ]
            (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (path / "loss.png").write_bytes(b"\x89PNG\r\n")
        seal(path, stage=stage, dataset=name, counts={})
    return str(graph.digest_of(profile, name))
