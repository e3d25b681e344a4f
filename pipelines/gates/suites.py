"""The suites of conf/base/gates.yml: the expectations on each table."""

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from engine.checked import checked
from engine.yaml_file import read_yaml

GATES = Path(__file__).resolve().parents[2] / "conf" / "base" / "gates.yml"
Limits = dict[str, tuple[float, str]]

_OF_KEYS: Limits = {"blank_share": (0, "each row has its key")}
_OF_TEXTS: Limits = {
    "blank_share": (0, "nothing without a visible character"),
    "duplicate_share": (0.5, "more, and most texts repeat others"),
}
_OF_DIALOGUES: Limits = {**_OF_TEXTS, "silent_share": (0, "no conversation in which nobody says anything")}


def _finite(value: Any) -> Any:
    """Return a bound as it was written; anything else than a finite number would pass everything or nothing."""
    if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
        raise ValueError("give a finite number")
    return value


Bound = Annotated[Any, PlainValidator(_finite)]


class Bounds(BaseModel):
    """A condition on one figure: what it must be at least and at most."""

    min_value: Bound = None
    max_value: Bound = None

    @model_validator(mode="after")
    def _do_not_cross(self) -> Self:
        if None not in (self.min_value, self.max_value) and self.min_value > self.max_value:
            raise ValueError("min_value is above max_value, so nothing can pass: exchange them")
        return self


class Expectation(Bounds):
    """One of Great Expectations' types on one statistic; all other fields are the type's own arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    column: str


class TableSuite(BaseModel):
    """A table's entry in gates.yml, whose head explains the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = "id"
    shares: dict[str, list[str]] = {}
    texts: list[str] = []
    dialogues: list[str] = []
    expectations: list[Expectation] = Field(min_length=1)


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
        UserError: the file is not YAML, or a suite has an unknown, missing or wrong field.

    """
    suites = {name: entry for name, entry in (read_yaml(path) or {}).items() if not name.startswith("_")}
    return {name: _suite(name, checked(TableSuite, entry, f"{path}: suite {name}")) for name, entry in suites.items()}


def gated_tables(path: Path = GATES) -> list[str]:
    """Return the tables that have a suite, in the order of the file."""
    return list(load_suites(path))


def _suite(name: str, table: TableSuite) -> Suite:
    usual = [rule for column in table.texts for rule in _usual(column, _OF_TEXTS)]
    usual += [rule for column in table.dialogues for rule in _usual(column, _OF_DIALOGUES)]
    usual += _usual(table.key, _OF_KEYS)
    own = [expectation.model_dump(exclude_unset=True) for expectation in table.expectations]
    return Suite(name, table.key, table.shares, [*own, *usual], table.dialogues)


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
