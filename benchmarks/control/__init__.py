"""What the control plane costs, beside what was promised. Run it on quiet cores, as root, with Slurm's packages.

    python -m benchmarks control --json benchmarks/results/control.json
    python -m benchmarks control --only mlflow dagster

The fault suite is the longest part, about ten minutes; the no-op first runs the smoke graph once.
"""

import argparse
import importlib

from benchmarks.report import Report

PARTS = ("mlflow", "dagster", "repro", "dispatch", "faults")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command line takes."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--repeats", type=int, default=5, help="repeats of each figure but the fault suite")


def run(asked: argparse.Namespace) -> Report:
    """Measure the parts asked for, one after the other."""
    parts = [importlib.import_module(f"benchmarks.control.{name}") for name in asked.only]
    rows = [row for part in parts for row in part.rows(asked.repeats)]
    return Report({"repeats": asked.repeats, "figure": "median"}, rows)
