"""The gain from sparsity on a CPU: tokens and CPU time to the loss that a dense GPT has after three minutes.

The dense model is a plain GPT (full attention heads, SwiGLU, rotary positions) trained by Muon, with as many matmul
weights as one token passes in the laptop profile's K2 model, embedding and head apart. Same data, tokenizer, head,
schedule and sweep of learning rates; one thread a run. The K2 model is trained on two budgets; where its loss
reaches the dense one's is interpolated in the logarithm of the tokens, seed by seed.

    python -m benchmarks dense --json benchmarks/results/dense.json     # 45 minutes on two cores; resumes

Finished runs are kept in the work directory, so the benchmark can be killed and started again.
"""

import argparse
from pathlib import Path

from benchmarks.report import Report

SEEDS = (1, 2, 3, 4, 5)
SWEEP_SEED = 9001
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
SHARES = (0.85, 1.1)
"""Budgets of the K2 model, as shares of the dense one's tokens: what is required, and where it is sure to be better."""
SWEEP_SHARE = 0.7
"""The budget at which its rates are swept."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to the command line."""
    command.add_argument("--profile", default="laptop", help="whose tokenizer and shards")
    command.add_argument("--minutes", type=float, default=3.0, help="CPU time of a dense run")
    command.add_argument("--work", type=Path, default=None, help="finished runs (default: data/PROFILE/.work/dense)")
    command.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    command.add_argument("--units", type=int, default=None, help="do at most this many runs now (default: all)")


def run(arguments: argparse.Namespace) -> Report | None:
    """Run the remaining units; return the report once all runs are done, else None."""
    from benchmarks.dense.plan import Plan

    return Plan(arguments).carry_out()
