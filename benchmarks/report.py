"""A benchmark's report: rows against a baseline, as a table and as JSON (DESIGN's format)."""

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from engine.artifacts.files import write_atomic
from engine.origin import commit, machine


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline.

    `target` states the requirement in words, and `ok` whether it was met; None without one. A value or a
    baseline that is not finite meets no target, and is null in JSON.
    """

    case: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    target: str | None = None
    ok: bool | None = None

    def __post_init__(self) -> None:
        if self.ok and not (isfinite(self.value) and isfinite(self.baseline_value)):
            object.__setattr__(self, "ok", False)

    @property
    def ratio(self) -> float | None:
        """Return value over baseline; None if the baseline is zero."""
        return self.value / self.baseline_value if self.baseline_value else None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, for JSON."""
        return {**asdict(self), "ratio": self.ratio}


@dataclass(frozen=True)
class Report:
    """The result of one benchmark."""

    settings: dict[str, Any]
    rows: list[Row]

    @property
    def ok(self) -> bool:
        """Whether every row met its target."""
        return all(row.ok is not False for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return commit, machine, settings and rows as plain data."""
        return {
            "commit": commit(),
            "machine": machine(),
            "settings": self.settings,
            "rows": [row.to_dict() for row in self.rows],
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_atomic(path, (json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False) + "\n").encode())

    def show(self) -> None:
        """Print the rows as a table."""
        from rich.console import Console
        from rich.table import Table

        table = Table("case", "value", "unit", "baseline", "ratio", "target", "")
        for row in self.rows:
            met = "" if row.ok is None else ("ok" if row.ok else "MISSED")
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            base = f"{row.baseline_value:.4g} {row.baseline}"
            table.add_row(row.case, f"{row.value:.4g}", row.unit, base, ratio, row.target or "", met)
        Console().print(table)


def _finite(value: Any) -> Any:
    """Return plain data with null for each number that is not finite, which JSON cannot write."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
