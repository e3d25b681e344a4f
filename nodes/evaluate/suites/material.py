"""The data that the suites make their questions from, loaded once for all checkpoints."""

from dataclasses import dataclass

import polars as pl

from engine.text.shards import INDEX_FILE, TokenShards


@dataclass(frozen=True)
class Material:
    """Token shards (with their test split), the corpus, and the tool-use tasks."""

    shards: TokenShards
    documents: pl.LazyFrame
    tasks: pl.LazyFrame

    def trained_documents(self) -> pl.LazyFrame:
        """Return the documents that were packed for training; the corpus has more than the token budget takes."""
        packed = pl.scan_parquet(self.shards.directory / INDEX_FILE).filter(pl.col("split") == "train")
        return self.documents.join(packed.select("id").unique(), on="id", how="semi")
