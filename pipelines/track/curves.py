"""What a stage run left to look at: its curves step by step, its plots and reports."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import files_below
from engine.errors import warn
from engine.identity.key import flatten
from pipelines import graph

HISTORY = "history.jsonl"
STEPS = ("step", "iteration")
LARGEST = 1_000_000  # bytes; larger files stay where they are
SHOWN = {".png": "plots", ".md": "reports"}


@dataclass(frozen=True)
class Point:
    """One value of one curve."""

    name: str
    step: int
    value: float


def present(profile: str, record: dict[str, Any]) -> list[Path]:
    """The directories among a run's outputs that are still the ones it left."""
    paths = {name: graph.dataset_path(profile, name) for name in record["outputs"]}
    return [
        path
        for name, path in paths.items()
        if path.is_dir() and graph.digest_of(profile, name) == record["outputs"][name]
    ]


def curves(folders: list[Path]) -> Iterator[Point]:
    """Every number in every history below `folders`; lists and what is not finite are left out."""
    for folder in folders:
        for path in files_below(folder):
            if path.name == HISTORY:
                yield from _history(path)


def kept_curves(record: dict[str, Any]) -> Iterator[Point] | None:
    """The curves of the history that the runner laid beside a record; None if it has none.

    Unlike an artifact it stays when a later run publishes, and a failed run has it too.
    """
    path = Path(record["path"]).with_suffix("") / HISTORY
    return _history(path) if path.is_file() else None


def keepsakes(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Small plots and reports below `folders`, each with the artifact folder it goes to."""
    for folder in folders:
        for path in files_below(folder):
            if path.suffix in SHOWN and path.stat().st_size <= LARGEST:
                yield path, f"{SHOWN[path.suffix]}/{folder.name}"


def _history(path: Path) -> Iterator[Point]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            yield from points_of(line, number, path)


def points_of(line: bytes, number: int, path: Path) -> Iterator[Point]:
    """Yield the points of one row of the history `path`, the `number`-th from 0.

    A row without a step is at its number; a damaged one is passed over with a warning, since a curve bears a gap.
    """
    try:
        row = flatten(dict(json.loads(line)))
    except (ValueError, TypeError, RecursionError) as error:
        warn(f"{path}, line {number + 1}, is damaged ({error}): its point is left out of the curves.")
        return
    step = next((int(row[name]) for name in STEPS if name in row), number)
    for name, value in row.items():
        if name not in STEPS and number_like(value):
            yield Point(f"curves/{name}", step, float(value))


def number_like(value: Any) -> bool:
    """Whether a value can be a metric: a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
