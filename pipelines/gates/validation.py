"""Validate one row of statistics with Great Expectations, which only `load` imports, since that takes about 3 s."""

import json
import math
import os
from functools import cache
from typing import Any

from engine.errors import UserError
from pipelines.gates import internals
from pipelines.gates.profile import Statistic
from pipelines.gates.suites import Suite

NOT_NULL = "expect_column_values_to_not_be_null"


def validate(dataset: str, profile: dict[str, Statistic], suite: Suite) -> dict[str, Any]:
    """Return Great Expectations' own validation of the one-row frame, as plain JSON data.

    Args:
        dataset: the table's name, for the messages.
        profile: the row: statistic → value.
        suite: the expectations.

    Raises:
        UserError: the suite has a wrong type of expectation or a wrong argument.

    """
    import pandas as pd

    context, gx = load()
    configuration = gx.expectations.expectation_configuration.ExpectationConfiguration
    rules = [_configuration(configuration, rule, suite.name) for rule in suite.expectations]
    # an undefined statistic (of no rows, or not finite) is null, which every other expectation would pass
    undefined = dict.fromkeys(rule["column"] for rule in suite.expectations if plain(profile[rule["column"]]) is None)
    finite = [configuration(type=NOT_NULL, kwargs={"column": name}) for name in undefined]
    expectations = gx.ExpectationSuite(name=suite.name)
    try:
        expectations.add_expectation_configurations([*rules, *finite])
    except Exception as error:  # GX raises several unrelated classes for a wrong type or argument
        raise UserError(f"conf/base/gates.yml: suite {suite.name}: {' '.join(str(error).split())[:300]}.") from error
    source = context.data_sources.add_or_update_pandas(dataset)
    batch = source.add_dataframe_asset(dataset).add_batch_definition_whole_dataframe("profile")
    frame = pd.DataFrame([{name: math.nan if plain(value) is None else value for name, value in profile.items()}])
    result = batch.get_batch(batch_parameters={"dataframe": frame}).validate(expectations)
    outcome: dict[str, Any] = json.loads(json.dumps(result.to_json_dict(), default=str))
    return _without_clocks(outcome)


def _configuration(configuration: Any, rule: dict[str, Any], suite: str) -> Any:
    kwargs = {name: value for name, value in rule.items() if name not in ("type", "description")}
    words = f"{expected_words(rule['type'], kwargs)}: {rule['description']}" if "description" in rule else None
    return configuration(type=rule["type"], kwargs=kwargs, description=words, meta={"suite": suite})


@cache
def load() -> tuple[Any, Any]:
    """Return an in-memory context and Great Expectations itself: imported once a process, silent, no analytics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import great_expectations.expectations.expectation_configuration

    return internals.silent_context(), gx


def expected_words(kind: str, arguments: dict[str, Any]) -> str:
    """Return an expectation's condition in words."""
    if kind == NOT_NULL:
        return "a finite number"
    low, high = arguments.get("min_value"), arguments.get("max_value")
    above = "more than" if arguments.get("strict_min") else "at least"
    below = "less than" if arguments.get("strict_max") else "at most"
    bounds = [f"{above} {low:g}" if low is not None else "", f"{below} {high:g}" if high is not None else ""]
    return " and ".join(bound for bound in bounds if bound) or kind.removeprefix("expect_").replace("_", " ")


def plain(value: Statistic) -> Statistic | None:
    """Return None for an undefined statistic, nan or an infinity, which JSON cannot write and no bound can limit."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_clocks(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result without the parts that differ from run to run (times, ids, in-memory frame names)."""
    meta = {"great_expectations_version": result.get("meta", {}).get("great_expectations_version")}
    kept = {"success": result["success"], "results": result["results"], "statistics": result["statistics"]}
    return {**kept, "suite_name": result.get("suite_name"), "meta": meta}
