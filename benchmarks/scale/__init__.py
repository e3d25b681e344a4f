"""A step with ZeRO, in a pipeline, and with experts cut, beside one process and what the planner says of each.

    python -m benchmarks scale --json benchmarks/results/scale.json
    python -m benchmarks scale --only cpu --pairs 2 --steps 1 --profile smoke
    python -m benchmarks scale --only gpu

`cpu`: tiny models on gloo ranks of one thread. What each kind of message takes must be the planner's number to the
byte, as must weights, gradients and optimizer state; what waits for backwards, within 5 %. Seconds are ratios of turns,
beside what the planner expects of the products alone; with fewer free cores than ranks they say nothing.

`gpu`: the h200 profile's own steps on this machine's GPU, beside the planner's interval and bytes; nulls without one.
"""

import argparse
import importlib

from benchmarks.report import Report

PARTS = ("cpu", "gpu")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to the command line."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--pairs", type=int, default=12, help="turns of each competitor, at least 2")
    command.add_argument("--steps", type=int, default=4, help="steps a turn, and steps timed on a GPU")
    command.add_argument("--profile", default="laptop", help="whose pretraining the CPU does (default: laptop)")
    command.add_argument("--note", default="", help="what else the machine did: said beside each ratio")


def run(arguments: argparse.Namespace) -> Report:
    """Measure the chosen parts, one after the other."""
    parts = [importlib.import_module(f"benchmarks.scale.{name}") for name in arguments.only]
    rows = [row for part in parts for row in part.rows(arguments)]
    return Report({name: getattr(arguments, name) for name in ("profile", "pairs", "steps", "note")}, rows)
