"""Stage runs without stages: outputs published and run records written in a scratch repository."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts import kept
from engine.artifacts.files import canonical_json, write_atomic
from engine.artifacts.manifest import seal
from engine.identity.records import write_record
from pipelines import dvc_cache, graph
from pipelines.stages_file import load_stages_file


class Runs:
    """Writes what a run of a stage leaves, below a root of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for profile in (None, *load_stages_file().profiles):
            for section in (
                "catalog",
                "parameters",
                "gates",
                "promotion",
                "compute",
                "sources",
            ):  # before the root moves away
                graph.config(profile, section)
        monkeypatch.setattr(graph, "ROOT", root)
        monkeypatch.setattr(dvc_cache, "_location", lambda _: root / ".dvc" / "cache")

    def add(
        self,
        stage: str,
        minute: int,
        profile: str = "smoke",
        outcome: str = "success",
        metrics: dict[str, float] | None = None,
        key: str | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """One run of `stage`, finished at that minute; its outputs' content depends on `parameters` alone."""
        outline = graph.stage_graph(stage)
        good = outcome == "success"
        record = {
            "stage": stage,
            "profile": profile,
            "key": key or f"{minute:016x}",
            "parts": {
                "code": {"modules": {}},
                "parameters": {f"{stage}.{name}": value for name, value in parameters.items()},
                "inputs": {name: str(graph.digest_of(profile, name)) for name in outline.inputs},
            },
            "outputs": {name: publish(profile, stage, name, parameters) for name in outline.outputs} if good else {},
            "outcome": outcome,
            "error": None if good else "the disk is full",
            "started": f"2026-01-01T00:{minute:02d}:00.000000+00:00",
            "finished": f"2026-01-01T00:{minute:02d}:30.000000+00:00",
            "seconds": 30.0,
            "node_seconds": {"train": 25.0},
            "host": "box",
            "commit": "c" * 40,
            "dirty": False,
            "user": "ann",
            "metrics": {"loss": 2.5, "train_tokens": 1000, "note": "text", **(metrics or {})} if good else {},
            "jobs": {},
            "attempt": 1,
        }
        path = write_record(self.root / "data" / profile / ".runs" / stage, record)
        return {**record, "path": path}

    def gate_report(self, dataset: str, stage: str, passed: bool) -> None:
        """The report that a gate leaves on a table."""
        row = {"type": "t", "statistic": "row_count", "observed": 7, "arguments": {}}
        content = {
            "dataset": dataset,
            "passed": passed,
            "failures": [] if passed else ["row_count is 0, expected at least 1"],
            "profile": {"row_count": 7},
            "expectations": [{**row, "passed": passed, "description": "some rows"}],
        }
        path = self.root / "data" / "smoke" / ".runs" / stage / "gates" / f"{dataset}.json"
        write_atomic(path, canonical_json(content))

    def keep(self, *names: str) -> None:
        """Keep published directories of smoke in its store."""
        for name in names:
            path, stage = graph.dataset_path("smoke", name), graph.producer(name)
            kept.keep(path, graph.payload_store("smoke"), stage=stage, dataset=name)


def publish(profile: str, stage: str, name: str, parameters: dict[str, Any]) -> str:
    """Put a sealed output in place and return its digest; the files of an older one, which may be kept, stay."""
    path = graph.dataset_path(profile, name)
    if path.suffix == ".json":
        write_atomic(path, canonical_json({"loss": 2.5}))
        return str(graph.digest_of(profile, name))
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "content.txt").write_text(json.dumps(parameters))
    if name.endswith("_history"):
        rows = [
            {"step": n, "loss": 3.0 - n / 10, "experts": {"max": 2}, "heads": [1, 2], "bad": None} for n in range(5)
        ]
        (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (path / "loss.png").write_bytes(picture())
    counts = {"rows": 7, "columns": {"id": "str"}} if "table" in graph.catalog_entries(profile)[name] else {}
    seal(path, stage=stage, dataset=name, counts=counts)
    return str(graph.digest_of(profile, name))


def picture() -> bytes:
    """A wide PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1600, 200), "white").save(buffer, "PNG")
    return buffer.getvalue()
