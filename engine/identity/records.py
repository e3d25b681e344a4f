"""Run records: one JSON file per execution, never an input of a stage.

data/<profile>/.runs/<stage>/<key>-<UTC time>.json holds the key and its parts, user, time, duration, host, commit,
attempt, outcome and headline metrics; a folder with the same stem may hold the history and its clocks, and a file
`<stem>.mlflow` the ids of the MLflow runs that the record was imported as (pipelines/track/run_ids).
"""

import getpass
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.errors import UserError, warn
from engine.identity import snapshot
from engine.remedy import move_aside

SCHEMA = 1
ADOPTED, RECALLED, PULLED, INTERRUPTED, DETACHED = "adopted", "recalled", "pulled", "interrupted", "detached"
BEGUN = "begun.json"
"""In the workspace of a running stage: what its record will say about key, start and origin."""
GOOD = ("success", ADOPTED, RECALLED, PULLED)
"""Outcomes that left the stage's outputs: it ran, an existing checkpoint was adopted, what it had made before under the
same key was recalled, or DVC pulled what it made elsewhere."""
TIMELESS = (ADOPTED, RECALLED, PULLED)
"""Good outcomes without a run, whose seconds are not what the stage takes."""


_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("stage", "key", "outcome", "started", "finished"), str),
    **dict.fromkeys(("parts", "outputs", "metrics", "node_seconds"), dict),
    "seconds": (int, float),
}
"""The fields that every reader of a record relies on."""


def now() -> str:
    """Return the time, UTC, in ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


def write_record(folder: Path, record: dict[str, Any]) -> Path:
    """Append a run record under `folder` (= .runs/<stage>); return its path."""
    path = record_path(folder, record)
    write_atomic(path, canonical_json({"schema": SCHEMA, **record}))
    return path


def record_path(folder: Path, record: dict[str, Any]) -> Path:
    """Return the path of a record under `folder`: by its key and the time when the run finished."""
    stamp = str(record["finished"])[:26].replace(":", "").replace("-", "")
    return folder / f"{record['key']}-{stamp}.json"


def read_record(path: Path) -> dict[str, Any]:
    """Return the run record in a file, with its `path`.

    Raises:
        UserError: the record is damaged, or lacks a field that every record has.
        FileNotFoundError: there is no such file.

    """
    record = read_object(path, move_aside(path))
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise UserError(
                f"{path} is not a run record, its field {name} is {record.get(name)!r}: {move_aside(path)}."
            )
    return {**record, "path": path}


def read_records(folder: Path, key: str = "") -> list[dict[str, Any]]:
    """Return the run records of one stage, or of one key, oldest first; skip a damaged one with a warning."""
    records = []
    for path in folder.glob(f"{key}*.json"):
        try:
            records.append(read_record(path))
        except FileNotFoundError:  # moved aside since it was listed
            continue
        except UserError as damage:
            warn(str(damage))
    return sorted(records, key=lambda record: str(record["finished"]))


def good_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of one stage that left its outputs, oldest first."""
    return [record for record in read_records(folder) if record["outcome"] in GOOD]


def recalled(earlier: dict[str, Any]) -> dict[str, Any]:
    """Return what a recalled stage's record repeats of the record of the run that made its outputs."""
    kept = ("world_size", "devices", "training", "metrics", "warning")
    same: dict[str, Any] = {name: earlier[name] for name in kept if name in earlier}
    return {**same, "outcome": RECALLED, "origin": {**earlier.get("origin", {}), "record": earlier["path"].name}}


def adopted_work(past: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the `origin` of a record whose training continued another key's work: its key, step and differences."""
    events = [event for event in past if "adopted" in event]
    last = events[-1] if events else None
    return {"origin": {"work": last["adopted"], "step": last["step"], "differs": last["differs"]}} if last else {}


def provenance(code: Path) -> dict[str, Any]:
    """Return user, host, git commit and whether the running `code` differs from it."""
    return {"user": getpass.getuser(), "host": socket.gethostname(), **snapshot.origin(code)}
