"""The change by each training stage: differences between neighbouring checkpoints, item by item, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from engine.intervals import Interval, paired_difference
from nodes.evaluate.report.comparison import SuiteInfo
from nodes.evaluate.results import Results, Row, SuiteResult

ChangeVerdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Change:
    """`after` minus `before` on one metric; the verdict is "unclear" if the interval contains zero."""

    metric: str
    title: str
    before: str
    after: str
    difference: Interval
    unit: str
    verdict: ChangeVerdict
    n: int

    @property
    def text(self) -> str:
        """The signed difference in the metric's unit; points for shares."""
        scale, digits, unit = (100, 1, " points") if self.unit == "share" else (1, 3, "")
        return f"{scale * self.difference.value:+.{digits}f}{unit}"

    @property
    def interval_text(self) -> str:
        """The 95 % interval of the difference, in the same unit."""
        if self.difference.low is None or self.difference.high is None:
            return "unknown from one item"
        scale, digits = (100, 1) if self.unit == "share" else (1, 3)
        return f"{scale * self.difference.low:+.{digits}f} to {scale * self.difference.high:+.{digits}f}"


def changes(results: Results, suites: Sequence[SuiteInfo], seed: int) -> tuple[Change, ...]:
    """Return the change of each suite's headline metric from every checkpoint to the next."""
    differences = []
    for suite in suites:
        for before, after in pairwise(results):
            if suite.name in results[before] and suite.name in results[after]:
                change = _change(suite, results[before][suite.name], results[after][suite.name], before, after, seed)
                if change is not None:
                    differences.append(change)
    return tuple(differences)


def _change(suite: SuiteInfo, old: SuiteResult, new: SuiteResult, before: str, after: str, seed: int) -> Change | None:
    if not new.rows:
        return None
    row = new.rows[0]
    if row.metric not in old.outcomes or row.metric not in new.outcomes:
        return None
    purpose = f"change {row.metric} {before} {after}"
    difference = paired_difference(new.outcomes[row.metric], old.outcomes[row.metric], seed, purpose)
    title = f"{suite.title}: {row.label}"
    return Change(row.metric, title, before, after, difference, row.unit, _verdict(difference, row), row.n)


def _verdict(difference: Interval, row: Row) -> ChangeVerdict:
    if not difference.excludes_zero:
        return "unclear"
    return "better" if (difference.value > 0) == (row.better == "higher") else "worse"
