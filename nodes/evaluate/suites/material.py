"""What the suites ask their questions from, loaded once for all checkpoints."""

from dataclasses import dataclass

import polars as pl

from engine.text.shards import TokenShards


@dataclass(frozen=True)
class Material:
    """Token shards (with their test split), the corpus, and the tool-use tasks."""

    shards: TokenShards
    documents: pl.LazyFrame
    tasks: pl.LazyFrame
