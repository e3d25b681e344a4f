"""Measure the import of 10,000 points into MLflow's SQLite store, as the follower writes them."""

import statistics
import tempfile
import time

from benchmarks.report import Row
from pipelines.track.curves import Point
from pipelines.track.store import LIVE, SQLITE, Store, client

CURVES, STEPS, MOST_SECONDS = 10, 1000, 5.0


def rows(repeats: int) -> list[Row]:
    """Return the one row of this part."""
    points = [Point(f"curves/{curve}", step, step / 7) for step in range(STEPS) for curve in range(CURVES)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(client(f"{SQLITE}{folder}/mlflow.db"), "smoke")  # its migrations are not counted
        seconds = statistics.median(_seconds(store, f"pretrain/{n}", points) for n in range(repeats))
    case = f"{len(points):,} metric points into MLflow (SQLite)"
    return [Row(case, seconds, "s", "limit", MOST_SECONDS, "at most 5 s", seconds <= MOST_SECONDS)]


def _seconds(store: Store, name: str, points: list[Point]) -> float:
    store.open(name, {LIVE: name}, 0, "pretrain")
    begun = time.perf_counter()
    store.write_curves(name, points)
    return time.perf_counter() - begun
