"""The K2 model and MuonClip on a CPU beside the usual alternatives. Run it on quiet cores.

    python -m benchmarks muonclip --json benchmarks/results/muonclip.json
    python -m benchmarks muonclip --only decode moe

Each figure is a median of CPU seconds over interleaved repeats, each ratio of one run.
"""

import argparse
import importlib

from benchmarks.report import Report

PARTS = ("optimizer", "model", "moe", "decode", "balance")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to the command line."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--repeats", type=int, default=7, help="repeats of each figure, at least 5")
    command.add_argument("--threads", type=int, default=1)


def run(arguments: argparse.Namespace) -> Report:
    """Measure the chosen parts, one after the other."""
    import torch

    torch.set_num_threads(arguments.threads)
    parts = [importlib.import_module(f"benchmarks.muonclip.{name}") for name in arguments.only]
    rows = [row for part in parts for row in part.rows(arguments.repeats)]
    return Report({"threads": arguments.threads, "repeats": arguments.repeats, "clock": "CPU seconds, median"}, rows)
