"""What is used of Great Expectations beyond its public interface is where Great Expectations 1.24.1 has it."""

from typing import Any

import pytest

from pipelines.gates import internals, validation
from pipelines.gates.suites import Suite

MOVED = "Great Expectations has moved away from 1.24.1: write pipelines/gates/internals.py anew, since "
RULE = {"type": "expect_column_values_to_be_between", "column": "rows", "min_value": 2, "description": "two are few"}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return validation.validate("t", {"rows": 1}, Suite("two", "id", expectations=[RULE]))


def test_the_context_makes_no_site_and_shows_no_bar() -> None:
    context = internals.silent_context()
    assert context.get_docs_sites_urls() == [], f"{MOVED}each process would make a site of its own."
    assert context.progress_bars["globally"] is False, f"{MOVED}progress bars would cover the stage's own output."


def test_a_result_has_the_fields_that_a_verdict_is_read_from(result: dict[str, Any]) -> None:
    (entry,) = result["results"]
    assert entry["success"] is False, f"{MOVED}a verdict would be read from another field."
    config = entry["expectation_config"]
    assert {"type", "kwargs", "description"} <= set(config), f"{MOVED}failures could not be put into words."
    assert config["kwargs"]["column"] == "rows", f"{MOVED}failures would not name their statistic."


def test_a_page_is_made_from_a_result_alone(result: dict[str, Any]) -> None:
    page = internals.page_of(result)
    assert page.count("</head>") == page.count("</body>") == 1, f"{MOVED}our style and figures would not be put in."
    for words in ("two", "rows", "at least 2: two are few"):
        assert words in page, f"{MOVED}the page of a table does not show {words!r}."
