"""Measure the loading of Dagster's definitions in a fresh interpreter."""

import statistics
import sys

from benchmarks.control.clock import measure
from benchmarks.report import Row
from pipelines.stages_file import ROOT

MOST_SECONDS = 1.5


def rows(repeats: int) -> list[Row]:
    """Return the one row of this part; the bare import of Dagster is its baseline."""
    bare, ours = (
        statistics.median(measure([sys.executable, "-c", f"import {module}"], ROOT)[1] for _ in range(repeats))
        for module in ("dagster", "dags.definitions")
    )
    case = "Dagster's definitions loaded, user CPU"
    return [Row(case, ours, "s", "import dagster", bare, "at most 1.5 s", ours <= MOST_SECONDS)]
