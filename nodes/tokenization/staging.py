"""Encoding of all rows into the workspace, chunk by chunk, so that a killed run goes on where it stopped."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from engine.text.shard_writer import Entry, token_dtype
from engine.text.shards import Raw
from engine.text.tokenizer import K2Tokenizer
from nodes.tokenization.sources import Row

_COLUMNS: Final = {
    "id": pl.String,
    "domain": pl.String,
    "topic": pl.String,
    "kind": pl.String,
    "split": pl.String,
    "length": pl.Int64,
    "n_bytes": pl.Int64,
}


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _encode(chunk: Sequence[Row], tokenizer: K2Tokenizer) -> list[list[int]]:
    """Ids of each row, closed by [EOS]; plain texts together, so that the library uses all cores."""
    plain = iter(tokenizer.encode_batch([row.text for row in chunk if row.chat is None]))
    return [[*(next(plain) if row.chat is None else row.encode(tokenizer)), tokenizer.eos_id] for row in chunk]


def _durable(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, flush to disc, then rename: `path` is whole or absent."""
    draft = path.with_suffix(path.suffix + ".part")
    write(draft)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.rename(path)


class Staging:
    """Encoded chunks in a directory: `NNNNN.ids` (flat) and, written after it, `NNNNN.parquet` (one row a document)."""

    def __init__(self, directory: Path, tokenizer: K2Tokenizer) -> None:
        # Under the tokenizer's digest: chunks of another tokenizer must never be taken for done.
        self.directory = directory / tokenizer.digest
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self.directory.mkdir(parents=True, exist_ok=True)

    def encode(self, rows: Iterable[Row], chunk_documents: int, on_chunk: Callable[[int], object]) -> None:
        """Encode what is not encoded yet; `on_chunk` is told the number of documents after each chunk."""
        for number, chunk in enumerate(_chunks(rows, chunk_documents)):
            if not self._path(number, "parquet").exists():
                self._write(number, chunk)
            on_chunk(len(chunk))

    def _path(self, number: int, kind: str) -> Path:
        return self.directory / f"{number:05d}.{kind}"

    def _write(self, number: int, chunk: Sequence[Row]) -> None:
        arrays = [np.array(ids, dtype=self._dtype) for ids in _encode(chunk, self._tokenizer)]
        sizes = self._tokenizer.byte_counts
        facts = [
            (row.id, row.domain, row.topic, row.kind, row.split, len(ids), int(sizes[ids].sum(dtype=np.int64)))
            for row, ids in zip(chunk, arrays, strict=True)
        ]
        table = pl.DataFrame(facts, schema=_COLUMNS, orient="row")
        _durable(self._path(number, "ids"), lambda path: path.write_bytes(np.concatenate(arrays).tobytes()))
        _durable(self._path(number, "parquet"), table.write_parquet)

    def table(self) -> pl.DataFrame:
        """All staged documents in order, with `chunk` and `start` (in ids) to find each one's tokens."""
        frames = [
            pl.read_parquet(path).with_columns(
                chunk=pl.lit(number), start=pl.col("length").cum_sum() - pl.col("length")
            )
            for number, path in enumerate(sorted(self.directory.glob("*.parquet")))
        ]
        if not frames:
            return pl.DataFrame(schema={**_COLUMNS, "chunk": pl.Int32, "start": pl.Int64})
        return pl.concat(frames)

    def entries(self, table: pl.DataFrame, order: Iterable[tuple[int, int]]) -> Iterator[Entry]:
        """The documents of `table` as the (copy, row) pairs of `order` name them."""
        mapped: dict[int, Raw] = {}
        columns = [table[name].to_list() for name in ("id", "topic", "n_bytes", "chunk", "start", "length")]
        for copy, i in order:
            id_, topic, n_bytes, chunk, start, length = (column[i] for column in columns)
            if chunk not in mapped:
                mapped[chunk] = np.asarray(np.memmap(self._path(chunk, "ids"), dtype=self._dtype, mode="r"))
            yield Entry(id_, topic, copy, n_bytes, mapped[chunk][start : start + length])
