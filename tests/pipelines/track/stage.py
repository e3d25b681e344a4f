"""A stage's workspace, as the runner and the training loop write it."""

import json
from typing import Any

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import BEGUN, record_path, write_record
from pipelines import graph
from pipelines.track.store import client, experiment_name

KEY = "0123456789abcdef"


def rows(first: int, last: int, shift: float = 0.0) -> str:
    return "".join(json.dumps({"step": n, "loss": 3 - n / 10 + shift}) + "\n" for n in range(first, last + 1))


class Stage:
    """The stage sft, with the published inputs."""

    def __init__(self, profile: str, started: str = "2026-02-01T00:00:00.000000+00:00") -> None:
        self.profile, self.started = profile, started
        self.workspace = graph.data_folder(profile) / ".work" / "sft" / KEY
        self.history = self.workspace / "training" / "history.jsonl"
        self.history.parent.mkdir(parents=True, exist_ok=True)
        outline = graph.stage_graph("sft")
        inputs = {name: str(graph.digest_of(profile, name)) for name in outline.inputs}
        self.begun = {
            "stage": "sft", "profile": profile, "key": KEY, "started": started, "attempt": 1,
            "parts": {"code": {}, "parameters": {"sft.lr": 0.1}, "inputs": inputs},
            "user": "ann", "host": "box", "commit": "c" * 40, "dirty": False,
        }  # fmt: skip
        write_atomic(self.workspace / BEGUN, canonical_json(self.begun))

    def append(self, text: str) -> None:
        with self.history.open("a") as file:
            file.write(text)

    def end(self, outcome: str = "success", **more: Any) -> None:
        """End the stage: keep its history, then write its record."""
        record = {
            **self.begun, "outcome": outcome, "error": None if outcome == "success" else "killed", "outputs": {},
            "finished": "2026-02-01T00:10:00.000000+00:00", "seconds": 600.0, "node_seconds": {}, "metrics": {},
            "jobs": {}, **more,
        }  # fmt: skip
        folder = graph.data_folder(self.profile) / ".runs" / "sft"
        write_atomic(record_path(folder, record).with_suffix("") / "history.jsonl", self.history.read_bytes())
        write_record(folder, record)


def sft_runs(uri: str, profile: str) -> list[Any]:
    store = client(uri)
    experiment = store.get_experiment_by_name(experiment_name(profile))
    runs = store.search_runs([experiment.experiment_id], "tags.`k2.stage` = 'sft'") if experiment else []
    return list(runs)


def losses(uri: str, run: Any) -> list[tuple[int, float]]:
    history = client(uri).get_metric_history(run.info.run_id, "curves/loss")
    return sorted((point.step, round(point.value, 6)) for point in history)


def expected(first: int, last: int) -> list[tuple[int, float]]:
    return [(n, round(3 - n / 10, 6)) for n in range(first, last + 1)]
