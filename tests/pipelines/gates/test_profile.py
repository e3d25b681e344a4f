"""One row of statistics, against the same figures computed by hand."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.gates import profile
from pipelines.gates.profile import profile_table

SCHEMA = {"id": "str", "text": "str", "n": "i64", "score": "f64", "ok": "bool", "tags": "list[str]"}
TYPES = {
    "id": pl.String,
    "text": pl.String,
    "n": pl.Int64,
    "score": pl.Float64,
    "ok": pl.Boolean,
    "tags": pl.List(pl.String),
}
TEXT = st.text(alphabet="aé€😀\ufffd \u200b\u3164\n", max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from("abcdef"),
            "text": st.none() | TEXT,
            "n": st.none() | st.integers(-100, 100),
            "score": st.floats(-1, 1) | st.just(math.nan),
            "ok": st.booleans(),
            "tags": st.lists(st.sampled_from("xy"), max_size=3),
        }
    ),
    min_size=1,
    max_size=30,
)


@given(ROWS)
def test_statistics_are_what_plain_python_finds(rows):
    statistics = profile_table(pl.LazyFrame(rows, schema=TYPES), SCHEMA, shares={"id": ["a", "b"]})  # type: ignore[arg-type]
    texts = [row["text"] for row in rows if row["text"] is not None]
    assert statistics["row_count"] == len(rows)
    assert statistics["id.duplicate_share"] == pytest.approx(1 - len({row["id"] for row in rows}) / len(rows))
    assert statistics["text.duplicate_share"] == pytest.approx(1 - len({row["text"] for row in rows}) / len(rows))
    blank = sum(not set(row["text"] or "") - set(" \n\u200b\u3164") for row in rows)
    assert statistics["text.blank_share"] == pytest.approx(blank / len(rows))
    assert statistics["text.null_share"] == pytest.approx(1 - len(texts) / len(rows))
    assert statistics["id.a"] == pytest.approx(sum(row["id"] == "a" for row in rows) / len(rows))
    assert statistics["id.other"] == pytest.approx(sum(row["id"] not in "ab" for row in rows) / len(rows))
    assert statistics["ok.true_share"] == pytest.approx(sum(row["ok"] for row in rows) / len(rows))
    assert statistics["tags.items_max"] == max(len(row["tags"]) for row in rows)
    assert statistics["score.nan_share"] == pytest.approx(sum(math.isnan(row["score"]) for row in rows) / len(rows))
    if texts:
        assert (statistics["text.chars_min"], statistics["text.chars_max"]) == (
            min(map(len, texts)),
            max(map(len, texts)),
        )
        assert min(map(len, texts)) <= statistics["text.chars_p50"] <= max(map(len, texts))
    if chars := sum(map(len, texts)):
        assert statistics["text.replacement_share"] == pytest.approx(
            sum(text.count("\ufffd") for text in texts) / chars
        )


def test_an_empty_table_has_no_rows_and_undefined_statistics():
    statistics = profile_table(pl.LazyFrame(schema=TYPES), SCHEMA, shares={"id": ["a"]})  # type: ignore[arg-type]
    assert statistics["row_count"] == 0
    assert math.isnan(float(statistics["text.chars_max"]))
    assert math.isnan(float(statistics["id.a"]))


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_beyond_the_sample_the_duplicate_share_stays_unbiased(monkeypatch, copies):
    monkeypatch.setattr(profile, "SAMPLE_ROWS", 2_000)
    frame = pl.LazyFrame({"id": [f"{i // copies}" for i in range(20_000)]})
    statistics = profile_table(frame, {"id": "str"})
    assert statistics["row_count"] == 20_000
    assert statistics["id.duplicate_share"] == pytest.approx(1 - 1 / copies)
