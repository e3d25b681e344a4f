"""The full fault suite on a real Slurm: `make test-cluster`."""

import sys

from benchmarks.control.clock import measure
from benchmarks.report import Row
from pipelines.manifest import ROOT

MOST_SECONDS = 600.0
SUITE = ("-m", "pytest", "-m", "slow", "--timeout", "600", "tests/cluster")


def rows(repeats: int) -> list[Row]:
    """The one row of this part; the suite runs once."""
    wall, _ = measure([sys.executable, *SUITE], ROOT)
    return [
        Row("full fault suite", wall, "s", "limit", MOST_SECONDS, "at most 10 min, all green", wall <= MOST_SECONDS)
    ]
