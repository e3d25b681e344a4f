"""Where the training text comes from and under which licence, counted from the documents."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Source:
    """The documents of one source, domain and licence."""

    source: str
    domain: str
    license: str
    documents: int
    bytes: int


def count_sources(documents: pl.LazyFrame) -> tuple[Source, ...]:
    """Count documents by source, domain and licence, largest first."""
    counted = (
        documents.group_by("source", "domain", "license")
        .agg(pl.len().cast(pl.Int64).alias("documents"), pl.col("n_bytes").sum().alias("bytes"))
        .sort(["bytes", "source", "domain", "license"], descending=[True, False, False, False])
        .collect()
    )
    return tuple(Source(**row) for row in counted.to_dicts())
