"""Encode all rows into the workspace, block by block, so that a killed run continues where it stopped."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from engine.launch import job_array
from engine.text.shard_writer import Entry, token_dtype
from engine.text.shards import Raw
from engine.text.tokenizer import K2Tokenizer
from nodes.tokenization.sources import Row

_COLUMNS: Final = pl.Schema(
    {
        "id": pl.String(),
        "domain": pl.String(),
        "topic": pl.String(),
        "kind": pl.String(),
        "split": pl.String(),
        "length": pl.Int64(),
        "n_bytes": pl.Int64(),
        "ids": pl.Binary(),
    }
)


class Staging:
    """Encoded documents in a directory: as Parquet files, which several processes may write, and their ids in one file.

    From the one file, documents are read in any order without holding them in memory.
    """

    def __init__(self, directory: Path, tokenizer: K2Tokenizer) -> None:
        # Under the tokenizer's digest: documents encoded by another tokenizer must never count as done.
        self.directory = directory / tokenizer.digest
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)

    def encode(self, rows: Iterable[Row], total: int, chunk_documents: int) -> pl.DataFrame:
        """Encode those of `total` rows that are not encoded yet, `chunk_documents` at a time.

        Returns all documents in order, with `start` (in ids), where each one's tokens begin.
        """
        encoded = job_array.table(
            self.directory, "encode", job_array.blocks(rows, chunk_documents), total, self._rows_of, _COLUMNS
        )
        with self._ids.open("wb") as file:
            for batch in encoded.select("ids").collect_batches(chunk_size=chunk_documents, maintain_order=True):
                file.writelines(batch["ids"])
        return encoded.drop("ids").with_columns(start=pl.col("length").cum_sum() - pl.col("length")).collect()

    @property
    def _ids(self) -> Path:
        return self.directory / "all.ids"

    def _rows_of(self, chunk: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """Yield rows of _COLUMNS: each document's facts, and its ids with [EOS], as they will be in the shards."""
        sizes = self._tokenizer.byte_counts
        for row, ids in zip(chunk, _encode(chunk, self._tokenizer), strict=True):
            tokens = np.array(ids, dtype=self._dtype)
            yield {
                "id": row.id,
                "domain": row.domain,
                "topic": row.topic,
                "kind": row.kind,
                "split": row.split,
                "length": len(tokens),
                "n_bytes": int(sizes[tokens].sum(dtype=np.int64)),
                "ids": tokens.tobytes(),
            }

    def entries(self, table: pl.DataFrame, order: Iterable[tuple[int, int]]) -> Iterator[Entry]:
        """Yield the documents of `table` that the (copy, row) pairs of `order` name."""
        mapped: Raw = np.asarray(np.memmap(self._ids, dtype=self._dtype, mode="r"))
        columns = [table[name].to_list() for name in ("id", "topic", "n_bytes", "start", "length")]
        for copy, i in order:
            id_, topic, n_bytes, start, length = (column[i] for column in columns)
            yield Entry(id_, topic, copy, n_bytes, mapped[start : start + length])


def _encode(chunk: Sequence[Row], tokenizer: K2Tokenizer) -> list[list[int]]:
    """Return the ids of each row with [EOS]; plain texts together, so that the library uses all cores."""
    plain = iter(tokenizer.encode_batch([row.text for row in chunk if row.chat is None]))
    return [[*(next(plain) if row.chat is None else row.encode(tokenizer)), tokenizer.eos_id] for row in chunk]
