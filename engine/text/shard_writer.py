"""Write a shard directory: flat binary files with headers, their index, and the record of the mixture."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl

from engine.text.shards import BYTES_FILE, FORMAT, HEADER, INDEX, INDEX_FILE, MAGIC, MIXTURE_FILE, Raw
from engine.text.tokenizer import K2Tokenizer

_POLARS = {"str": pl.String, "i64": pl.Int64}


class Entry(NamedTuple):
    """A document to be written: where it comes from, and its ids with the closing [EOS]."""

    id: str
    topic: str
    copy: int
    n_bytes: int
    tokens: Raw


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the narrowest type that holds every id."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


class ShardWriter:
    """Writer of one (split, domain) after another; starts a new file when the next document would pass the limit."""

    def __init__(self, directory: Path, tokenizer: K2Tokenizer, shard_tokens: int) -> None:
        self.directory, self.shard_tokens = directory, shard_tokens
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._rows: list[tuple[Any, ...]] = []
        self.shards: list[dict[str, Any]] = []
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, split: str, domain: str, kind: str, entries: Iterable[Entry]) -> None:
        """Write all documents of a domain in a split; writes nothing if there are none."""
        file: BinaryIO | None = None
        shard: dict[str, Any] = {}
        for entry in entries:
            if file is None or shard["tokens"] + len(entry.tokens) > self.shard_tokens:
                self._finish(file, shard)
                number = sum(s["split"] == split and s["domain"] == domain for s in self.shards)
                name = f"{split}-{domain}-{number:05d}.bin"
                shard = {"file": name, "split": split, "domain": domain, "kind": kind, "tokens": 0, "bytes": 0}
                self.shards.append(shard)
                file = (self.directory / name).open("wb")
                file.write(bytes(HEADER.size))
            file.write(entry.tokens.astype(self._dtype).tobytes())
            place = (shard["file"], entry.copy, shard["tokens"], len(entry.tokens), entry.n_bytes)
            self._rows.append((entry.id, domain, entry.topic, kind, split, *place))
            shard["tokens"] += len(entry.tokens)
            shard["bytes"] += entry.n_bytes
        self._finish(file, shard)

    def _finish(self, file: BinaryIO | None, shard: Mapping[str, Any]) -> None:
        if file is None:
            return
        # The header comes last, so that a file cut short by a crash has no valid header.
        file.seek(0)
        width = np.dtype(self._dtype).itemsize
        file.write(HEADER.pack(MAGIC, FORMAT, width, shard["tokens"], self._tokenizer.digest.encode()))
        file.close()

    def close(self, mixture: Mapping[str, Any]) -> None:
        """Write the index, the byte table and mixture.json, to which the fields of `mixture` are added."""
        schema = {name: _POLARS[kind] for name, kind in INDEX.items()}
        index = pl.DataFrame(self._rows, schema=schema, orient="row")
        index.write_parquet(self.directory / INDEX_FILE, compression="zstd", statistics=True)
        np.save(self.directory / BYTES_FILE, self._tokenizer.byte_counts)
        card = {
            "format": FORMAT,
            "tokenizer": self._tokenizer.digest,
            "vocab_size": self._tokenizer.vocab_size,
            **mixture,
            "shards": self.shards,
        }
        (self.directory / MIXTURE_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
