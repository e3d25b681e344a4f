"""The control plane's costs beside their targets. Run it on quiet cores, as root, with Slurm's packages.

    python -m benchmarks control --json benchmarks/results/control.json
    python -m benchmarks control --only mlflow dagster

The fault suite is the longest part, about ten minutes; the no-op first runs the smoke graph once.
"""

import argparse
import importlib

from benchmarks.report import Report

PARTS = ("mlflow", "dagster", "repro", "dispatch", "faults")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to the command line."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--repeats", type=int, default=5, help="repeats of each figure but the fault suite")


def run(arguments: argparse.Namespace) -> Report:
    """Measure the chosen parts, one after the other."""
    parts = [importlib.import_module(f"benchmarks.control.{name}") for name in arguments.only]
    rows = [row for part in parts for row in part.rows(arguments.repeats)]
    return Report({"repeats": arguments.repeats, "figure": "median"}, rows)
