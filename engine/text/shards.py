"""Token shards: what tokenization writes and every training stage reads through memory maps.

A shard directory holds flat binary files of token ids, a series of files for each split and domain, each with a
64-byte header; `index.parquet` (one row per document); `token_bytes.npy` (bytes of text that each id stands for) and
`mixture.json`. A file never mixes domains, so that a selection of domains or kinds is exact.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.artifacts.schema import TableSchema
from engine.errors import UserError
from engine.remedy import remake
from engine.text.permutation import key, permute
from engine.text.tokenizer import K2Tokenizer

Ids = NDArray[np.int64]
Raw = NDArray[Any]

SPLITS: Final = ("train", "validation", "test")
FORMAT: Final = 1
HEADER: Final = struct.Struct("<8sIIQ32s8x")
"""Magic, format, bytes per id, number of ids, digest of the tokenizer."""
MAGIC: Final = b"K2SHARD\0"
INDEX_FILE: Final = "index.parquet"
MIXTURE_FILE: Final = "mixture.json"
BYTES_FILE: Final = "token_bytes.npy"
INDEX: Final[TableSchema] = {
    "id": "str",
    "domain": "str",  # the mixture's name: a corpus domain, rewrites or trajectories
    "topic": "str",  # the domain that the document's own stage gave it
    "kind": "str",  # natural or synthetic
    "split": "str",
    "shard": "str",
    "copy": "i64",  # 0 for a document's first appearance, 1 for its second, …
    "offset": "i64",  # in tokens from the shard's first
    "length": "i64",  # in tokens, the closing [EOS] included
    "n_bytes": "i64",
}


class Document(NamedTuple):
    """One tokenized document; `tokens` (n,) end in [EOS]."""

    id: str
    domain: str
    kind: str
    tokens: Ids


class EvalWindows(NamedTuple):
    """Windows to measure a loss on: `tokens` (N, T+1), bytes of text in each one's targets (N,), their domains (N).

    `places` says where each window begins: its shard's file, and the offset of its first token there.
    """

    tokens: Ids
    n_bytes: Ids
    domains: tuple[str, ...]
    places: tuple[tuple[str, int], ...] = ()


class Targets(NamedTuple):
    """The document's number of each target of some windows, and the bytes of text it stands for; both are (N, T)."""

    documents: Ids
    n_bytes: Ids

    def totals(self, values_NT: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum of `values_NT` over each document's targets, in the documents' order."""
        return np.asarray(np.bincount(self.documents.ravel(), weights=values_NT.ravel()), dtype=np.float64)


@dataclass(frozen=True)
class Shard:
    """One verified file; `tokens` (n,) is a view of the mapped file."""

    file: str
    domain: str
    kind: str
    tokens: Raw


def _map(path: Path, tokens: int, digest: str) -> Raw:
    """Map a shard file after checking its header, its length and its tokenizer."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except FileNotFoundError:
        raise UserError(f"shard {path} is missing: {remake(path)}.") from None
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise UserError(f"{path} is not a token shard (its header is foreign or cut): {remake(path)}.")
    _, version, width, count, owner = HEADER.unpack(head)
    if version != FORMAT:
        raise UserError(f"{path} has shard format {version}, this version reads {FORMAT}: {remake(path)}.")
    if owner.decode() != digest:
        raise UserError(f"{path} was written with another tokenizer than mixture.json names: {remake(path)}.")
    size = path.stat().st_size
    if size != HEADER.size + width * count or count != tokens:
        belong = HEADER.size + width * tokens
        raise UserError(f"{path} is truncated: {size} bytes where {belong} belong: {remake(path)}.")
    dtype = np.uint16 if width == 2 else np.uint32
    # A plain view: slicing np.memmap itself costs microseconds a window.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=HEADER.size, shape=(count,)))


class TokenStream:
    """One split of the shards, from which training and evaluation read windows."""

    def __init__(self, directory: Path, split: str, shards: Sequence[Shard], byte_counts: Raw, n_bytes: int) -> None:
        self.directory, self.name, self.shards = directory, split, tuple(shards)
        self.n_tokens = sum(len(shard.tokens) for shard in shards)
        self.n_bytes = n_bytes
        self._byte_counts = byte_counts
        self._plan: Callable[..., tuple[tuple[Shard, ...], Ids]] = lru_cache(maxsize=64)(self._make_plan)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token over the whole split: nats per token / (this · ln 2) = bits per byte."""
        return self.n_bytes / self.n_tokens

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that the split holds, in the order of the shards."""
        return tuple(dict.fromkeys(shard.domain for shard in self.shards))

    def choose(self, domains: Sequence[str] | None = None, kinds: Sequence[str] | None = None) -> tuple[Shard, ...]:
        """Return the shards of these domains and kinds (None: all); UserError for a name that the split lacks."""
        for names, known in ((domains, {s.domain for s in self.shards}), (kinds, {s.kind for s in self.shards})):
            unknown = sorted(set(names or ()) - known)
            if unknown:
                raise UserError(
                    f"{self.directory}: split {self.name!r} has no {', '.join(unknown)}, "
                    f"only {', '.join(sorted(known))}: correct the name in the parameters."
                )
        return tuple(
            s for s in self.shards if (domains is None or s.domain in domains) and (kinds is None or s.kind in kinds)
        )

    def _make_plan(
        self, seq_len: int, domains: tuple[str, ...] | None, kinds: tuple[str, ...] | None
    ) -> tuple[tuple[Shard, ...], Ids]:
        chosen = self.choose(domains, kinds)
        ends = np.cumsum([max(len(s.tokens) - 1, 0) // seq_len for s in chosen], dtype=np.int64)
        if not len(ends) or ends[-1] == 0:
            raise UserError(
                f"{self.directory}: split {self.name!r} is too short for one window of seq_len {seq_len} + 1 "
                f"({sum(len(s.tokens) for s in chosen)} tokens): lower seq_len or give tokenization more documents."
            )
        return chosen, ends

    def batch(
        self,
        step: int,
        batch_size: int,
        seq_len: int,
        seed: int,
        *,
        domains: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        rows: range | None = None,
    ) -> Ids:
        """Return (batch_size, seq_len + 1) ids: row i is window number `step * batch_size + i` of an endless order.

        A pure function of its arguments, whatever was read before. Each epoch permutes all windows in its own way and
        cuts each shard at its own phase, so that a document's split point moves from epoch to epoch. With `rows` only
        these of the batch's rows are returned, and no others are read.
        """
        rows = range(batch_size) if rows is None else rows
        chosen, ends = self._plan(seq_len, _key(domains), _key(kinds))
        total = int(ends[-1])
        epochs, positions = np.divmod(np.array(rows, dtype=np.int64) + step * batch_size, total)
        out = np.empty((len(rows), seq_len + 1), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            places = np.flatnonzero(epochs == epoch)
            windows = permute(positions[places], total, key(seed, "windows", epoch))
            where = np.searchsorted(ends, windows, side="right")
            for row, window, s in zip(places.tolist(), windows.tolist(), where.tolist(), strict=True):
                tokens = chosen[s].tokens
                first = window - (int(ends[s - 1]) if s else 0)
                slack = (len(tokens) - 1) % seq_len
                start = key(seed, "phase", epoch, s) % (slack + 1) + first * seq_len
                out[row] = tokens[start : start + seq_len + 1]
        return out

    def eval_windows(
        self,
        seq_len: int,
        domains: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> EvalWindows:
        """Return windows whose targets do not overlap, in the shards' order; with `limit`, that many, evenly spaced.

        Targets are `tokens[:, 1:]`; nats summed over them / (ln 2 · sum of `n_bytes`) is bits per byte.
        """
        chosen, ends = self._plan(seq_len, _key(domains), _key(kinds))
        total = int(ends[-1])
        count = min(total, limit or total)
        windows = (2 * np.arange(count, dtype=np.int64) + 1) * total // (2 * count)
        where = np.searchsorted(ends, windows, side="right")
        firsts = windows - np.concatenate([[0], ends[:-1]])[where]
        tokens = np.stack(
            [
                chosen[s].tokens[f * seq_len : f * seq_len + seq_len + 1].astype(np.int64)
                for s, f in zip(where.tolist(), firsts.tolist(), strict=True)
            ]
        )
        n_bytes = self._byte_counts[tokens[:, 1:]].sum(axis=1, dtype=np.int64)
        places = tuple((chosen[s].file, f * seq_len) for s, f in zip(where.tolist(), firsts.tolist(), strict=True))
        return EvalWindows(tokens, n_bytes, tuple(chosen[s].domain for s in where.tolist()), places)

    def owners(self, windows: EvalWindows) -> Targets:
        """Return which document each target of `windows` belongs to, and how many bytes of text it stands for.

        Documents are numbered from 0 in the order in which they appear; the copies of one are the same document.
        """
        rows = (
            pl.scan_parquet(self.directory / INDEX_FILE)
            .filter(pl.col("shard").is_in(sorted({file for file, _ in windows.places})))
            .select("shard", "offset", "id")
            .collect()
        )
        held = {str(file): part.sort("offset") for (file,), part in rows.group_by("shard")}
        offsets = {file: part["offset"].to_numpy() for file, part in held.items()}
        numbers: dict[str, int] = {}
        documents = np.empty((len(windows.tokens), windows.tokens.shape[1] - 1), dtype=np.int64)
        for row, (file, first) in zip(documents, windows.places, strict=True):
            targets = np.arange(first + 1, first + 1 + row.size)
            places, inverse = np.unique(np.searchsorted(offsets[file], targets, side="right") - 1, return_inverse=True)
            ids = held[file]["id"]
            row[:] = np.array([numbers.setdefault(ids[place], len(numbers)) for place in places.tolist()])[inverse]
        return Targets(documents, self._byte_counts[windows.tokens[:, 1:]].astype(np.int64))

    def documents(self, domain: str | None = None, min_tokens: int = 1) -> Iterator[Document]:
        """Yield each document of at least `min_tokens` once (first copies only), in the shards' order."""
        shards = {s.file: s for s in self.choose(None if domain is None else [domain])}
        rows = (
            pl.scan_parquet(self.directory / INDEX_FILE)
            .filter(pl.col("shard").is_in(list(shards)), pl.col("copy") == 0, pl.col("length") >= min_tokens)
            .select("id", "shard", "offset", "length")
            .collect()
        )
        for id_, file, offset, length in rows.iter_rows():
            shard = shards[file]
            yield Document(id_, shard.domain, shard.kind, shard.tokens[offset : offset + length].astype(np.int64))

    def runs(self, domains: Sequence[str] | None = None, kinds: Sequence[str] | None = None) -> list[Ids]:
        """Return each shard's tokens without repeated copies, one array per shard: what an n-gram model counts."""
        firsts = (
            pl.scan_parquet(self.directory / INDEX_FILE)
            .filter(pl.col("copy") == 0)
            .group_by("shard")
            .agg(pl.col("length").sum())
            .collect()
        )
        fresh = dict(firsts.iter_rows())
        # Copies are written in order, so the first copies are at the front of a domain's series of files.
        return [s.tokens[: fresh[s.file]].astype(np.int64) for s in self.choose(domains, kinds) if fresh.get(s.file)]


def _key(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(set(names)))


class TokenShards:
    """A verified shard directory."""

    def __init__(self, directory: Path, mixture: dict[str, Any], byte_counts: Raw) -> None:
        self.directory, self.mixture = directory, mixture
        self._byte_counts = byte_counts
        self.tokenizer_digest: str = mixture["tokenizer"]
        self.vocab_size: int = mixture["vocab_size"]

    @classmethod
    def open(cls, directory: Path, tokenizer: K2Tokenizer | None = None) -> "TokenShards":
        """Open and verify every file; with `tokenizer`, refuse shards that were written with another one."""
        path = directory / MIXTURE_FILE
        try:
            mixture: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            byte_counts = np.load(directory / BYTES_FILE)
        except FileNotFoundError as error:
            gone = f"{error.filename} is missing, so {directory} is not a shard directory"
            raise UserError(f"{gone}: {remake(path)}.") from None
        except ValueError as error:
            raise UserError(f"{path} or {BYTES_FILE} beside it is damaged ({error}): {remake(path)}.") from None
        if mixture.get("format") != FORMAT:
            raise UserError(f"{path} has format {mixture.get('format')}, this version reads {FORMAT}: {remake(path)}.")
        opened = cls(directory, mixture, byte_counts)
        if tokenizer is not None and tokenizer.digest != opened.tokenizer_digest:
            raise UserError(
                f"{path} names tokenizer {opened.tokenizer_digest}, but the one given is {tokenizer.digest}: "
                f"{remake(path)}."
            )
        opened._shards = {
            row["file"]: _map(directory / row["file"], row["tokens"], opened.tokenizer_digest)
            for row in mixture["shards"]
        }
        return opened

    _shards: dict[str, Raw]

    def split(self, name: str) -> TokenStream:
        """Return the stream of `train`, `validation` or `test`; UserError if that split is empty."""
        rows = [row for row in self.mixture["shards"] if row["split"] == name]
        if not rows:
            has = ", ".join(sorted({row["split"] for row in self.mixture["shards"]}))
            raise UserError(f"{self.directory} has no split {name!r}, only {has}: give tokenization documents of it.")
        shards = [Shard(row["file"], row["domain"], row["kind"], self._shards[row["file"]]) for row in rows]
        return TokenStream(self.directory, name, shards, self._byte_counts, sum(row["bytes"] for row in rows))

    def eval_windows(
        self,
        split: str,
        seq_len: int,
        kinds: Sequence[str] | None = None,
        limit: int | None = None,
        domains: Sequence[str] | None = None,
    ) -> EvalWindows:
        """Return `TokenStream.eval_windows` of a split."""
        return self.split(split).eval_windows(seq_len, domains, kinds, limit)
