"""A suite's result for one checkpoint: rows for the comparison table, and details for plots and samples.

Everything is plain data that JSON keeps unchanged, because a finished suite is written to the workspace and read again
after a kill.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Unit = Literal["share", "bits/byte", "nats/token", "ratio"]


@dataclass(frozen=True)
class Row:
    """One figure of one checkpoint.

    `metric` is its stable name ("bits_per_byte/web"), `label` the reader's name. `n` counts the independent items
    (documents, questions, prompts) behind it, `low` and `high` are its 95 % interval, `chance` is the score of
    guessing.
    """

    metric: str
    label: str
    value: float
    unit: Unit
    better: Literal["lower", "higher"]
    n: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class SuiteResult:
    """Rows in the order they are shown (the first is the suite's headline), and other data for the report.

    `outcomes` holds for a metric the counts of each item: [numerators, denominators], whose sums' ratio is the row's
    value. An item is independent of the others: a document with all its windows, a subject with all its questions.
    Items are in the same order for every checkpoint, so that two checkpoints can be compared item by item. `details` is
    for the suite's own plots and samples (JSON types only).
    """

    rows: tuple[Row, ...]
    outcomes: dict[str, list[list[float]]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON."""
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "outcomes": self.outcomes, "details": self.details}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SuiteResult":
        """Build a result from what `to_dict` returned."""
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(rows, dict(data["outcomes"]), dict(data["details"]))

    def row(self, metric: str) -> Row | None:
        """Return the row named `metric`, if this suite has it."""
        return next((row for row in self.rows if row.metric == metric), None)


Results = dict[str, dict[str, SuiteResult]]
"""Checkpoint name → suite name → result, both in the order of the report."""
