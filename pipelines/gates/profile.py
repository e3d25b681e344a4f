"""A table summed up in one row of statistics, so that judging it costs the same for a thousand rows or a billion."""

from typing import TYPE_CHECKING

from engine.artifacts.schema import TableSchema

if TYPE_CHECKING:
    import polars as pl

SAMPLE_ROWS = 1_000_000
"""Quantiles and duplicates are exact up to here; beyond, they are taken over a hash bucket of about this many rows."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
Statistic = float | int | str
Shares = dict[str, list[str]]


def profile_table(
    frame: "pl.LazyFrame", schema: TableSchema, key: str = "id", shares: Shares | None = None
) -> dict[str, Statistic]:
    """Statistics of `frame`, column by column, computed by streaming.

    Memory does not grow with the rows: sums, extremes and counts run over all of them; quantiles and the share
    of duplicate keys over the rows whose key falls into one hash bucket (equal keys share a bucket, so the
    duplicate share stays unbiased), which is all rows up to `SAMPLE_ROWS`.

    Args:
        frame: the table.
        schema: its columns and their types.
        key: the column whose values must be distinct.
        shares: column → the values it may take; anything else counts into `<column>.other`.

    Returns:
        `row_count`; for each column `<column>.null_share`, and by type: text `.empty_share`, `.chars_min`,
        `.chars_p05`, `.chars_p50`, `.chars_p95`, `.chars_max`, `.replacement_share` (of all characters);
        numbers `.min`, `.mean`, `.max`, `.nan_share`; flags `.true_share`; lists `.items_min`, `.items_mean`,
        `.items_max`; `<key>.duplicate_share`; `<column>.<value>` for each share. A statistic of no rows is nan.

    """
    import polars as pl

    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    whole = [expression for column, kind in schema.items() for expression in _whole(column, kind)]
    for column, values in (shares or {}).items():
        whole += [(pl.col(column) == value).mean().alias(f"{column}.{value}") for value in values]
        whole.append((~pl.col(column).is_in(values)).mean().alias(f"{column}.other"))
    sampled = [expression for column, kind in schema.items() if kind == "str" for expression in _quantiles(column)]
    sampled.append((1 - pl.col(key).n_unique() / pl.len()).alias(f"{key}.duplicate_share"))
    buckets = -(-rows // SAMPLE_ROWS)
    sample = frame if buckets <= 1 else frame.filter(pl.col(key).hash(seed=0) % buckets == 0)
    found = (
        frame.select(whole).collect(engine="streaming").row(0, named=True)
        | sample.select(sampled).collect(engine="streaming").row(0, named=True)
    )  # fmt: skip
    return {"row_count": rows} | {name: float("nan") if value is None else value for name, value in found.items()}


def _whole(column: str, kind: str) -> "list[pl.Expr]":
    """Statistics that stream over every row."""
    import polars as pl

    cell = pl.col(column)
    found = {"null_share": cell.is_null().mean()}
    if kind == "str":
        chars = cell.str.len_chars()
        found["empty_share"] = (chars == 0).mean()
        found["chars_min"], found["chars_max"] = chars.min(), chars.max()
        found["replacement_share"] = cell.str.count_matches(REPLACEMENT, literal=True).sum() / chars.sum()
    elif kind in ("i32", "i64", "f64"):
        found |= {"min": cell.min(), "mean": cell.mean(), "max": cell.max()}
        if kind == "f64":
            found["nan_share"] = cell.is_nan().mean()
    elif kind == "bool":
        found["true_share"] = cell.mean()
    elif kind == "list[str]":
        items = cell.list.len()
        found |= {"items_min": items.min(), "items_mean": items.mean(), "items_max": items.max()}
    return [expression.alias(f"{column}.{name}") for name, expression in found.items()]


def _quantiles(column: str) -> "list[pl.Expr]":
    """Statistics that need their rows at once, hence taken over the sample."""
    import polars as pl

    chars = pl.col(column).str.len_chars()
    return [chars.quantile(at / 100, "nearest").alias(f"{column}.chars_p{at:02d}") for at in (5, 50, 95)]
