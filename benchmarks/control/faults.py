"""Measure the full fault suite on a real Slurm: `make test-cluster`."""

from benchmarks.control.clock import measure
from benchmarks.report import Row
from pipelines.stages_file import ROOT

MOST_SECONDS = 600.0
SUITE = ("make", "test-cluster")


def rows(repeats: int) -> list[Row]:
    """Return the one row of this part; the suite runs once."""
    wall, _ = measure(SUITE, ROOT)
    return [
        Row("full fault suite", wall, "s", "limit", MOST_SECONDS, "at most 10 min, all green", wall <= MOST_SECONDS)
    ]
