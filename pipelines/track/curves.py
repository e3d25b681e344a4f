"""The curves, plots and reports of a stage run."""

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
LARGEST = 1_000_000  # bytes; larger files are not copied
SHOWN = {".png": "plots", ".md": "reports"}


@dataclass(frozen=True)
class Point:
    """One value of one curve."""

    name: str
    step: int
    value: float


def present(profile: str, record: dict[str, Any]) -> list[Path]:
    """Return the directories among a run's outputs that have not changed since the run."""
    paths = {name: graph.dataset_path(profile, name) for name in record["outputs"]}
    return [
        path
        for name, path in paths.items()
        if path.is_dir() and graph.digest_of(profile, name) == record["outputs"][name]
    ]


def curves(folders: list[Path]) -> Iterator[Point]:
    """Yield every number of every history below `folders`; lists and numbers that are not finite are left out."""
    for folder in folders:
        for path in files_below(folder):
            if path.name == HISTORY:
                yield from _history(path)


def kept_curves(record: dict[str, Any]) -> Iterator[Point] | None:
    """Return the curves of the history that the runner copied beside a record; None if there is none.

    Unlike an artifact, this history stays when a later run publishes, and a failed run has one too.
    """
    path = Path(record["path"]).with_suffix("") / HISTORY
    return _history(path) if path.is_file() else None


def keepsakes(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield small plots and reports below `folders`, each with its artifact folder in MLflow."""
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

    A row without a step has its number as step; a damaged row is skipped with a warning, since curves may have gaps.
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
    """Return whether a value can be a metric: a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
