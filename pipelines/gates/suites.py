"""The suites of conf/base/gates.yml: the expectations on each table."""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.yaml_file import read_yaml

GATES = Path(__file__).resolve().parents[2] / "conf" / "base" / "gates.yml"
Limits = dict[str, tuple[float, str]]

_FIELDS = {"key", "shares", "texts", "dialogues", "expectations"}
_OF_KEYS: Limits = {"blank_share": (0, "each row has its key")}
_OF_TEXTS: Limits = {
    "blank_share": (0, "nothing without a visible character"),
    "duplicate_share": (0.5, "more, and most texts repeat others"),
}
_OF_DIALOGUES: Limits = {**_OF_TEXTS, "silent_share": (0, "no conversation in which nobody says anything")}


@dataclass(frozen=True)
class Suite:
    """The expectations that one table must satisfy.

    Attributes:
        name: the table's name in the catalog.
        key: the column whose values must be distinct.
        shares: column → the values whose shares are measured (anything else counts as `<column>.other`).
        expectations: Great Expectations configurations: `type`, `column` (a statistic of the profile), the
            type's own arguments, and a `description`; those of every key and text come last.
        dialogues: columns that hold conversations as JSON.

    """

    name: str
    key: str
    shares: dict[str, list[str]] = field(default_factory=dict)
    expectations: list[dict[str, Any]] = field(default_factory=list)
    dialogues: list[str] = field(default_factory=list)


@cache
def load_suites(path: Path = GATES) -> dict[str, Suite]:
    """Return all suites by table.

    Raises:
        UserError: the file is not YAML, or a suite has an unknown or a missing field.

    """
    suites = read_yaml(path) or {}
    return {name: _suite(path, name, entry) for name, entry in suites.items() if not name.startswith("_")}


def gated_tables(path: Path = GATES) -> list[str]:
    """Return the tables that have a suite, in the order of the file."""
    return list(load_suites(path))


def _suite(path: Path, name: str, entry: Any) -> Suite:
    if not isinstance(entry, dict) or not entry.get("expectations"):
        raise UserError(f"{path}: suite {name} has no field expectations: list what {name} must satisfy.")
    if unknown := set(entry) - _FIELDS:
        raise UserError(f"{path}: suite {name} has an unknown field {min(unknown)}: use {', '.join(sorted(_FIELDS))}.")
    for expectation in entry["expectations"]:
        if not isinstance(expectation, dict) or not {"type", "column"} <= set(expectation):
            raise UserError(f"{path}: suite {name}: {expectation!r} needs the fields type and column.")
        check_bounds(expectation, f"{path}: suite {name}: {expectation['column']}")
    texts, dialogues = entry.get("texts", []), entry.get("dialogues", [])
    usual = [rule for column in texts for rule in _usual(column, _OF_TEXTS)]
    usual += [rule for column in dialogues for rule in _usual(column, _OF_DIALOGUES)]
    key, shares = entry.get("key", "id"), entry.get("shares", {})
    usual += _usual(key, _OF_KEYS)
    return Suite(name, key, shares, [*entry["expectations"], *usual], dialogues)


def check_bounds(rule: dict[str, Any], where: str) -> None:
    """Refuse a bound that is not a finite number, which everything or nothing would pass, and bounds that cross.

    Raises:
        UserError: a bound is wrong; the message names `where` and the bound.

    """
    bounds = {name: rule[name] for name in ("min_value", "max_value") if rule.get(name) is not None}
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UserError(f"{where}: {name} is {bound!r}: give a finite number.")
    if len(bounds) == 2 and bounds["min_value"] > bounds["max_value"]:
        raise UserError(f"{where}: min_value is above max_value, so nothing can pass: exchange them.")


def _usual(column: str, limits: Limits) -> list[dict[str, Any]]:
    """Return the expectations on every column of its kind, in any table."""
    return [
        {
            "type": "expect_column_values_to_be_between",
            "column": f"{column}.{statistic}",
            "max_value": most,
            "description": description,
        }
        for statistic, (most, description) in limits.items()
    ]
