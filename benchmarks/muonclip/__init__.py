"""The K2 model and MuonClip on a CPU beside what one would pick instead. Run it on quiet cores.

    python -m benchmarks muonclip --json benchmarks/results/muonclip.json
    python -m benchmarks muonclip --only decode moe

Each figure is a median of CPU seconds over interleaved repeats, each ratio of one run.
"""

import argparse
import importlib

from benchmarks.report import Report

PARTS = ("optimizer", "model", "moe", "decode", "balance")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command line takes."""
    command.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    command.add_argument("--repeats", type=int, default=7, help="repeats of each figure, at least 5")
    command.add_argument("--threads", type=int, default=1)


def run(asked: argparse.Namespace) -> Report:
    """Measure the parts asked for, one after the other."""
    import torch

    torch.set_num_threads(asked.threads)
    parts = [importlib.import_module(f"benchmarks.muonclip.{name}") for name in asked.only]
    rows = [row for part in parts for row in part.rows(asked.repeats)]
    return Report({"threads": asked.threads, "repeats": asked.repeats, "clock": "CPU seconds, median"}, rows)
