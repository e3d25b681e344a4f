"""Print what runs on this machine: `python -m kernels`.

For each op with a Triton kernel: the form that computes it here and why, the registers and the shared memory of its
largest kernel as compiled for Hopper (benchmarks/results/kernels-sm90.json), and the figure last measured on a GPU
(benchmarks/results/kernels.json).
"""

import json
from pathlib import Path
from typing import Any

import torch

from kernels.choice import missing

RESULTS = Path(__file__).parent.parent / "benchmarks/results"
COMPILED, MEASURED = "kernels-sm90.json", "kernels.json"


def here() -> tuple[str, str]:
    """Return the form that computes all ops on this machine, and why."""
    if not torch.cuda.is_available():
        return "torch", f"torch {torch.__version__} sees no GPU"
    if reason := missing():
        return "torch", reason
    return "triton", torch.cuda.get_device_name()


def rows(results: Path = RESULTS) -> list[list[str]]:
    """Return a line for each op: name, form, why, registers, shared memory in KiB, figure last measured."""
    form, why = here()
    compiled, measured = (_by_op(results / name) for name in (COMPILED, MEASURED))
    lines = []
    for op in sorted(path.stem for path in (Path(__file__).parent / "gpu").glob("[!_]*.py")):
        kernels = compiled.get(op, [])
        registers = max((row["registers"] for row in kernels), default="not compiled")
        shared = max((row["shared"] for row in kernels), default=0) / 1024
        figures = [f"{row['value']:.3g} {row['unit']} ({row['case']})" for row in measured.get(op, [])]
        lines.append([op, form, why, str(registers), f"{shared:.0f}", "; ".join(figures) or "not measured"])
    return lines


def _by_op(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return a report's rows by op: the field `op`, or the first word of `case`."""
    by_op: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text())["rows"] if path.is_file() else []:
        by_op.setdefault(row.get("op") or row["case"].split()[0], []).append(row)
    return by_op


def main() -> None:
    """Print the table."""
    table = [["op", "runs as", "because", "registers", "shared KiB", "measured on a GPU"], *rows()]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
