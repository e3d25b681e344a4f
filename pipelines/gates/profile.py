"""Sum a table up in one row of statistics, so that judging it costs the same for a thousand rows or a billion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.artifacts.schema import TableSchema

if TYPE_CHECKING:
    import polars as pl

SAMPLE_ROWS = 1_000_000
"""Quantiles and duplicates are exact up to here; beyond, they are taken over a hash bucket of about this many rows."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSEEN = r"\s\p{Z}\p{Cc}\p{Cf}\u{034f}\u{115f}\u{1160}\u{2800}\u{3164}\u{ffa0}\u{fe00}-\u{fe0f}"
VISIBLE = f"[^{_UNSEEN}]"
"""A character that a reader sees: no white space, control or format character, no filler or lone variation selector."""
_UNSEEN_ESCAPE = (  # the same characters, as JSON escapes them in ASCII
    r"\\(?:[nrtbf]|u(?:00[01][0-9a-f]|007f|00a0|00ad|034f|115f|1160|180e|200[0-9a-f]|202[89a-f]|205f|206[0-9a-f]|"
    r"2800|3000|3164|feff|ffa0|fe0[0-9a-f]))"
)
_SPOKEN = rf'"(?:content|text)":\s*"[{_UNSEEN}]*[^{_UNSEEN}"]'
Statistic = float | int | str
Shares = dict[str, list[str]]


def profile_table(
    frame: "pl.LazyFrame",
    schema: TableSchema,
    key: str = "id",
    shares: Shares | None = None,
    dialogues: Sequence[str] = (),
) -> dict[str, Statistic]:
    """Return statistics of `frame`, column by column, computed by streaming.

    Memory does not grow with the rows: sums, extremes and counts run over all of them; quantiles and the shares of
    duplicates over the rows whose key falls into one hash bucket, which is all rows up to `SAMPLE_ROWS`. Equal keys
    share a bucket, so the share of duplicate keys stays unbiased; of other texts those that are repeated often show.

    Args:
        frame: the table.
        schema: its columns and their types.
        key: the column whose values must be distinct.
        shares: column → the values it may take; anything else counts into `<column>.other`.
        dialogues: columns that hold conversations as JSON.

    Returns:
        `row_count`; for each column `<column>.null_share`, and by type: text `.blank_share` (null or no
        visible character), `.duplicate_share`, `.chars_min`, `.chars_p05`, `.chars_p50`, `.chars_p95`, `.chars_max`,
        `.replacement_share` (of all characters); dialogues `.silent_share` (no message with a visible character);
        numbers `.min`, `.mean`, `.max`, `.nan_share`; flags `.true_share`; lists `.items_min`, `.items_mean`,
        `.items_max`; `<column>.<value>` for each share. A statistic of no rows is nan.

    """
    import polars as pl

    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    whole = [expression for column, kind in schema.items() for expression in _whole(column, kind)]
    for column, values in (shares or {}).items():
        whole += [(pl.col(column) == value).mean().alias(f"{column}.{value}") for value in values]
        whole.append((~pl.col(column).is_in(values)).mean().alias(f"{column}.other"))
    whole += [(~_speaks(column)).mean().alias(f"{column}.silent_share") for column in dialogues]
    texts = [column for column, kind in schema.items() if kind == "str"]
    buckets = -(-rows // SAMPLE_ROWS)
    sample = frame if buckets <= 1 else frame.filter(pl.col(key).hash(seed=0) % buckets == 0)
    statistics = (
        frame.select(whole).collect(engine="streaming").row(0, named=True)
        | _of_sample(sample, texts)
    )  # fmt: skip
    return {"row_count": rows} | {name: float("nan") if value is None else value for name, value in statistics.items()}


def _whole(column: str, kind: str) -> "list[pl.Expr]":
    """Return the statistics of a column that stream over every row."""
    import polars as pl

    cell = pl.col(column)
    statistics = {"null_share": cell.is_null().mean()}
    if kind == "str":
        chars = cell.str.len_chars()
        statistics["blank_share"] = (~cell.str.contains(VISIBLE).fill_null(False)).mean()
        statistics["chars_min"], statistics["chars_max"] = chars.min(), chars.max()
        statistics["replacement_share"] = cell.str.count_matches(REPLACEMENT, literal=True).sum() / chars.sum()
    elif kind in ("i32", "i64", "f64"):
        statistics |= {"min": cell.min(), "mean": cell.mean(), "max": cell.max()}
        if kind == "f64":
            statistics["nan_share"] = cell.is_nan().mean()
    elif kind == "bool":
        statistics["true_share"] = cell.mean()
    elif kind == "list[str]":
        items = cell.list.len()
        statistics |= {"items_min": items.min(), "items_mean": items.mean(), "items_max": items.max()}
    return [expression.alias(f"{column}.{name}") for name, expression in statistics.items()]


def _speaks(column: str) -> "pl.Expr":
    """Return an expression: whether a message of a conversation in JSON has a visible character."""
    import polars as pl

    return pl.col(column).str.replace_all(_UNSEEN_ESCAPE, " ").str.contains(_SPOKEN).fill_null(False)


def _of_sample(sample: "pl.LazyFrame", columns: list[str]) -> dict[str, Statistic]:
    """Return statistics that need all rows in memory, which holds the texts' lengths and hashes, never the texts."""
    import polars as pl

    lengths = [pl.col(column).str.len_chars().alias(f"{column} length") for column in columns]
    hashes = [pl.col(column).hash(seed=0).alias(f"{column} hash") for column in columns]
    small = sample.select(*lengths, *hashes).collect(engine="streaming")
    result: dict[str, Statistic] = {}
    for column in columns:
        repeated = 1 - pl.col(f"{column} hash").n_unique() / pl.len()
        statistics = {f"{column}.duplicate_share": repeated}
        for at in (5, 50, 95):
            statistics[f"{column}.chars_p{at:02d}"] = pl.col(f"{column} length").quantile(at / 100, "nearest")
        result |= small.select(**statistics).row(0, named=True)
    return result
