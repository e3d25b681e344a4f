"""Two ranks of one thread beside one process of two threads: the same batch, the same cores."""

import argparse
from pathlib import Path

from benchmarks.report import Row
from benchmarks.trainer.turns import Setting, compare

ROOT = Path(__file__).parents[2]


def rows(inputs: Path, arguments: argparse.Namespace) -> list[Row]:
    """Return a row: wall seconds of a step in two ranks over those of one process; there is no target."""
    ranks = Setting(ROOT, arguments.profile, threads=1, ranks=2)
    threads = Setting(ROOT, arguments.profile, threads=2)
    ratio, seconds = compare(ranks, threads, inputs, arguments.pairs, arguments.steps, "wall")
    low, high = ratio.ends
    case = f"a step in 2 ranks of 1 thread, ratio {ratio.value:.3f} [{low:.3f}, {high:.3f}]"
    return [Row(case, seconds["one"], "s", "1 process of 2 threads", seconds["other"])]
