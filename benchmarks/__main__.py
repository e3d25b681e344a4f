"""Command line of the benchmarks.

python -m benchmarks --list
python -m benchmarks NAME --json benchmarks/results/NAME.json
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.report import Report
from engine.errors import UserError

BENCHMARKS = {
    "control": "the control plane: dispatch, the fault suite, a no-op repro, Dagster's start, metrics into MLflow",
    "dense": "tokens and CPU time of the K2 model to the loss of a dense GPT of equal active weights",
    "muonclip": "the model's and the optimizer's speed on a CPU beside transformers and torch.optim.Muon",
    "trainer": "the trainer's step beside the one before it was rebuilt; two ranks beside two threads",
    "rl": "held-out reward before and after reinforcement learning on 5 fresh seeds, with two controls",
    "sm90": "registers, stack and shared memory of each Triton kernel, as compiled for Hopper without a GPU",
    "scale": "bytes and time of a step with ZeRO, in a pipeline, with experts cut; beside one process and the planner",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; 0 if every row met its target, 1 if not or on a user's error, 3 if work is left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against a named baseline.")
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, about in BENCHMARKS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--json", type=Path, default=None, help="write the result here")
        if name in arguments:
            importlib.import_module(f"benchmarks.{name}").add_arguments(command)
    options = parser.parse_args(arguments)
    if options.list or options.name is None:
        print("\n".join(f"{name:12} {about}" for name, about in BENCHMARKS.items()))
        return 0
    try:
        report: Report | None = importlib.import_module(f"benchmarks.{options.name}").run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if report is None:
        return 3
    report.show()
    if options.json is not None:
        report.write(options.json)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
