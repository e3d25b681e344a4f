"""The comparison table: one line per metric, one cell per checkpoint, and how a figure is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nodes.evaluate.results import Results, Row


@dataclass(frozen=True)
class SuiteInfo:
    """A suite's description: its name, its title, and one or two sentences on how it measures."""

    name: str
    title: str
    about: str


@dataclass(frozen=True)
class Line:
    """One metric over all checkpoints; a checkpoint without it has None. `best` names the leading checkpoints."""

    metric: str
    label: str
    cells: dict[str, Row | None]
    best: tuple[str, ...]

    @property
    def sample(self) -> Row:
        """Any row of this line, for what all rows share (unit, chance, direction)."""
        return next(row for row in self.cells.values() if row is not None)


@dataclass(frozen=True)
class Section:
    """The lines of one suite."""

    suite: SuiteInfo
    lines: tuple[Line, ...]


def compare(results: Results, suites: Sequence[SuiteInfo]) -> tuple[Section, ...]:
    """Turn results by checkpoint into sections by suite; suites without a row (samples) are left out."""
    sections = []
    for suite in suites:
        rows_by_checkpoint = {
            name: by_suite[suite.name].rows for name, by_suite in results.items() if suite.name in by_suite
        }
        labels = {row.metric: row.label for rows in rows_by_checkpoint.values() for row in rows}
        lines = tuple(_line(metric, label, rows_by_checkpoint, list(results)) for metric, label in labels.items())
        if lines:
            sections.append(Section(suite, lines))
    return tuple(sections)


def _line(metric: str, label: str, rows_by_checkpoint: dict[str, tuple[Row, ...]], checkpoints: list[str]) -> Line:
    cells = {
        name: next((row for row in rows_by_checkpoint.get(name, ()) if row.metric == metric), None)
        for name in checkpoints
    }
    present = {name: row for name, row in cells.items() if row is not None}
    pick = min if next(iter(present.values())).better == "lower" else max
    target = value_text_of(pick(present.values(), key=lambda row: row.value))
    best = tuple(name for name, row in present.items() if value_text_of(row) == target)
    return Line(metric, label, cells, best if len(best) < len(present) else ())


def value_text_of(row: Row) -> str:
    """Return the figure with its unit as the reader sees it: shares in per cent, the rest with three decimals."""
    return number_text(row.value, row.unit)


def number_text(value: float, unit: str) -> str:
    """Return `value` as text for `unit`."""
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}"


def interval_text_of(row: Row) -> str:
    """Return the interval as "36.0–46.5", or "" if a row has none."""
    if row.low is None or row.high is None:
        return ""
    scale, digits = (100, 1) if row.unit == "share" else (1, 3)
    return f"{scale * row.low:.{digits}f}–{scale * row.high:.{digits}f}"


def to_json(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the table as data: suite → metric → what all checkpoints share, and value, interval and n of each."""
    return {
        section.suite.name: {
            line.metric: {
                "label": line.label,
                "unit": line.sample.unit,
                "better": line.sample.better,
                "chance": line.sample.chance,
                "checkpoints": {
                    name: {"value": row.value, "low": row.low, "high": row.high, "n": row.n}
                    for name, row in line.cells.items()
                    if row is not None
                },
            }
            for line in section.lines
        }
        for section in sections
    }
