"""Judge a table by its suite, with Great Expectations over the table's one row of statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import canonical_json, write_atomic
from engine.errors import UserError
from pipelines.gates import beside
from pipelines.gates.profile import Statistic, profile_table
from pipelines.gates.suites import Suite, load_suites
from pipelines.gates.validation import expected_words, plain

if TYPE_CHECKING:
    import polars as pl

REPORT_SCHEMA = 1


@dataclass(frozen=True)
class GateReport:
    """The verdict on one table.

    Attributes:
        passed: whether every expectation holds.
        failures: one phrase for each failed expectation: the statistic, the observed value, the expected one.
        report: plain data for the JSON file: profile, expectations and Great Expectations' own result.

    """

    passed: bool
    failures: list[str]
    report: dict[str, Any]


class GateRefused(UserError):
    """A table did not pass its gate; `report` says why."""

    def __init__(self, message: str, report: GateReport) -> None:
        super().__init__(message)
        self.report = report


def check(dataset: str, frame: "pl.LazyFrame", report_dir: Path) -> None:
    """Judge a table before it is published; a table without a suite passes without being read.

    Writes `<report_dir>/<dataset>.json` and the page `data_docs/<dataset>.html` beside the stages' folders.

    Args:
        dataset: the table's name in the catalog.
        frame: the finished table.
        report_dir: data/<profile>/.runs/<stage>/gates.

    Raises:
        GateRefused: an expectation does not hold. The report is written before; the dataset that called moves
            the table to data/<profile>/.rejected/.
        UserError: gates.yml is at fault.

    """
    suite = load_suites().get(dataset)
    if suite is None:
        return
    profile = profile_table(frame, _schema(frame), suite.key, suite.shares, suite.dialogues)
    verdict = judge(dataset, profile, suite.name)
    path = report_dir / f"{dataset}.json"
    write_atomic(path, canonical_json(verdict.report))
    _write_docs(report_dir.parents[1])
    if not verdict.passed:
        refused = report_dir.parents[2] / ".rejected" / dataset
        raise GateRefused(
            f"{dataset} was refused by its gate: {'; '.join(verdict.failures)}. It is kept in {refused}, the table "
            f"published before stays as it was, and {path} holds all figures: correct the stage's parameters or "
            "input, or the suite in conf/base/gates.yml.",
            verdict,
        )


def judge(dataset: str, profile_frame: dict[str, Statistic], suite: str) -> GateReport:
    """Run one suite over a table's statistics.

    Args:
        dataset: the table, for the messages.
        profile_frame: the one row of statistics, as `profile_table` returns it.
        suite: the suite's name in gates.yml.

    Raises:
        UserError: the suite is unknown, or names a statistic or an expectation that does not exist.

    """
    suites = load_suites()
    if suite not in suites:
        raise UserError(f"conf/base/gates.yml has no suite {suite} for {dataset}: it has {', '.join(suites)}.")
    rules = suites[suite]
    for rule in rules.expectations:
        if rule["column"] not in profile_frame:
            raise UserError(
                f"conf/base/gates.yml: suite {suite} names the statistic {rule['column']}, which {dataset} does not "
                f"have; it has {', '.join(sorted(profile_frame))}."
            )
    return judge_row(dataset, profile_frame, rules)


def judge_row(dataset: str, profile_frame: dict[str, Statistic], rules: Suite) -> GateReport:
    """Run a suite, wherever it comes from, over one row that has all of its columns.

    A statistic that is not finite (nan, an infinity) is undefined, and fails every expectation.
    """
    result = beside.validate(dataset, profile_frame, rules)
    rows = [_verdict_row(entry, profile_frame) for entry in result["results"]]
    failures = [_phrase(row) for row in rows if not row["passed"]]
    report = {
        "schema": REPORT_SCHEMA,
        "dataset": dataset,
        "passed": not failures,
        "failures": failures,
        "profile": {name: plain(value) for name, value in profile_frame.items()},
        "expectations": rows,
        "result": result,
    }
    return GateReport(not failures, failures, report)


def _verdict_row(entry: dict[str, Any], profile: dict[str, Statistic]) -> dict[str, Any]:
    """Return one expectation's verdict in the report's own fields."""
    config = entry["expectation_config"]
    arguments = {name: value for name, value in config["kwargs"].items() if name not in ("column", "batch_id")}
    return {
        "type": config["type"],
        "statistic": config["kwargs"]["column"],
        "arguments": arguments,
        "observed": plain(profile[config["kwargs"]["column"]]),
        "passed": bool(entry["success"]),
        "description": config.get("description"),
    }


def _phrase(row: dict[str, Any]) -> str:
    expectation = row["description"] or expected_words(row["type"], row["arguments"])
    return f"{row['statistic']} is {_number(row['observed'])}, expected {expectation}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str("undefined" if value is None else value)


def _schema(frame: "pl.LazyFrame") -> dict[str, Any]:
    """Return the names of a frame's column types, which the dataset has checked against the declaration."""
    import polars as pl

    names: Sequence[tuple[Any, str]] = (
        (pl.String, "str"), (pl.Int64, "i64"), (pl.Int32, "i32"), (pl.Float64, "f64"),
        (pl.Boolean, "bool"), (pl.List(pl.String), "list[str]"),
    )  # fmt: skip
    return {
        column: next((name for known, name in names if kind == known), "other")
        for column, kind in frame.collect_schema().items()
    }


def _write_docs(runs: Path) -> None:
    from pipelines.gates.docs import write_docs

    write_docs(runs)
