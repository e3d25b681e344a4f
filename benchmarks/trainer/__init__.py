"""The trainer's step beside what it was before the trainer was rebuilt, and two ranks beside two threads; a save.

    python -m benchmarks trainer --json benchmarks/results/trainer.json
    python -m benchmarks trainer --only ranks --pairs 5 --profile smoke

Each figure is of a profile's own pretraining, on text of the standard library. Competitors train in processes of their
own and take turns of a few steps, so that a busy moment affects both of a pair; a ratio is that of the sums over all
pairs, with its interval by the bootstrap over pairs. Run it on quiet cores.
"""

import argparse
import importlib
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Report

PARTS = ("before", "ranks", "stall")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to the command line."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--pairs", type=int, default=24, help="turns of each competitor, at least 20 for a verdict")
    command.add_argument("--steps", type=int, default=8, help="steps a turn")
    command.add_argument("--profile", default="laptop", help="whose pretraining (default: laptop)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure the chosen parts, one after the other."""
    from benchmarks.trainer.text import write_text

    with TemporaryDirectory() as folder:
        inputs = write_text(Path(folder))
        parts = [importlib.import_module(f"benchmarks.trainer.{name}") for name in arguments.only]
        rows = [row for part in parts for row in part.rows(inputs, arguments)]
    return Report({"profile": arguments.profile, "pairs": arguments.pairs, "steps": arguments.steps}, rows)
