"""What every Triton kernel needs of a Hopper GPU, as compiled for sm_90a: no GPU takes part.

The figures are exact for a version of Triton, so a change of one shows in a review.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.report import Report
from engine.errors import UserError
from kernels.choice import missing


@dataclass(frozen=True)
class Compiled(Report):
    """A report whose rows are the figures of kernels instead of ratios."""

    kernels: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every kernel is fit for Hopper."""
        return not any(row["faults"] for row in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Return commit, machine, settings and the kernels' figures as plain data."""
        return {**super().to_dict(), "rows": self.kernels}

    def show(self) -> None:
        """Print the figures as a table."""
        from rich.console import Console
        from rich.table import Table

        names = list(self.kernels[0])
        table = Table(*names)
        for row in self.kernels:
            table.add_row(*(str(row[name]) for name in names))
        Console().print(table)


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: the configurations are those that ship."""


def run(_: Namespace) -> Report:
    """Compile all kernels; raise UserError where there is no Triton."""
    if reason := missing():
        raise UserError(f"the kernels cannot be compiled: {reason}")
    import triton

    from kernels import hopper

    kernels = [row for op in hopper.ops() for row in rows_of(op)]
    return Compiled({"target": "sm_90a", "triton": triton.__version__}, [], kernels)


def rows_of(op: str) -> list[dict[str, Any]]:
    """Return the figures of each kernel of an op in each case that ships; `faults` should be empty."""
    from kernels import hopper

    return [
        {"op": op, "case": case, **asdict(figures), "faults": figures.faults()} for case, figures in hopper.shipped(op)
    ]
