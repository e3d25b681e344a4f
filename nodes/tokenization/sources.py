"""Read the three tables that are tokenized as one stream of rows, a batch at a time."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import polars as pl

from engine.errors import UserError
from engine.remedy import make_again
from engine.text.chat import encode_chat, render
from engine.text.dialogue import Dialogue, read_dialogue
from engine.text.permutation import key
from engine.text.tokenizer import K2Tokenizer

REWRITES: Final = "rewrites"
TRAJECTORIES: Final = "trajectories"
_READ_ROWS: Final = 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One document: plain text, or a dialogue (messages, tools) that the chat template renders."""

    id: str
    domain: str
    topic: str
    kind: str
    split: str
    text: str = ""
    chat: Dialogue | None = None

    def as_text(self) -> str:
        """Return the row as the text from which the BPE is trained."""
        return self.text if self.chat is None else self._named(lambda chat: render(*chat))

    def encode(self, tokenizer: K2Tokenizer) -> list[int]:
        """Return the ids without the closing [EOS]."""
        if self.chat is None:
            return tokenizer.encode(self.text)
        return self._named(lambda chat: encode_chat(tokenizer, *chat)[0])

    def _named(self, rendered: Callable[[Dialogue], T]) -> T:
        """Return what the template makes of the dialogue; an error names the row."""
        assert self.chat is not None
        try:
            return rendered(self.chat)
        except UserError as error:
            raise UserError(f"{self.domain}, row {self.id}: {error}") from None


def _rows(frame: pl.LazyFrame, table: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the text columns `columns` in the table's order, without holding the table."""
    has = frame.collect_schema()
    for column in columns:
        if column not in has:
            raise UserError(f"table {table} has no column {column!r} (it has {', '.join(has)}): make it again.")
        if has[column] != pl.String:
            raise UserError(f"table {table}: the column {column!r} is {has[column]}, not text: make it again.")
    for batch in frame.select(columns).collect_batches(chunk_size=_READ_ROWS, maintain_order=True):
        for row in batch.iter_rows():
            if None in row:
                raise UserError(f"{table}, row {row[0]}: {columns[row.index(None)]} is null: make the table again.")
            yield row


def read(documents: pl.LazyFrame, rewrites: pl.LazyFrame, trajectories: pl.LazyFrame) -> Iterator[Row]:
    """Yield all rows: documents (natural), then rewrites and trajectories (synthetic).

    A rewrite of a document outside the training split is refused, since it would carry the document into training.
    """
    held_out: set[str] = set()
    for id_, domain, text, split in _rows(documents, "documents", ["id", "domain", "text", "split"]):
        if split != "train":
            held_out.add(id_)
        yield Row(id_, domain, domain, "natural", split, text)
    for id_, source, domain, text in _rows(rewrites, REWRITES, ["id", "source_id", "domain", "text"]):
        if source in held_out:
            again = make_again("rephrase", None, force=True)
            raise UserError(f"rewrites, row {id_}: source_id {source} is a held-out document: {again}.")
        yield Row(id_, REWRITES, domain, "synthetic", "train", text)
    columns = ["id", "domain", "split", "messages", "tools"]
    for id_, domain, split, messages, tools in _rows(trajectories, TRAJECTORIES, columns):
        try:
            chat = read_dialogue(messages, tools)
        except UserError as error:
            again = make_again("tooluse", None, force=True)
            raise UserError(f"trajectories, row {id_}: {error}: {again}.") from None
        yield Row(id_, TRAJECTORIES, domain, "synthetic", split, chat=chat)


def sample(rows: Callable[[], Iterator[Row]], weights: dict[str, float], train_bytes: int, seed: int) -> list[str]:
    """Return training texts for the BPE: each domain's share of `train_bytes`, chosen by a hash of their ids.

    Reads the rows twice, once for sizes and once for the chosen texts, so that memory grows with `train_bytes` and not
    with the tables. A domain that has less than its share gives all it has.
    """
    total = sum(weights.values())
    shares = {name: _Share(train_bytes * weight / total) for name, weight in weights.items() if weight > 0}
    for row in rows():
        if row.split == "train" and row.domain in shares:
            shares[row.domain].offer(key(seed, "bpe", row.domain, row.id), row.id, row.as_text())
    chosen = {(domain, id_) for domain, share in shares.items() for id_ in share.ids()}
    return [row.as_text() for row in rows() if row.split == "train" and (row.domain, row.id) in chosen]


class _Share:
    """The texts with the lowest keys that fill `share` bytes; the last one goes beyond."""

    def __init__(self, share: float) -> None:
        self._share, self._total = share, 0
        self._heap: list[tuple[int, str, int]] = []  # negated key first, so that the highest key is on top

    def offer(self, rank: int, id_: str, text: str) -> None:
        size = len(text.encode())
        heapq.heappush(self._heap, (-rank, id_, size))
        self._total += size
        while self._total - self._heap[0][2] >= self._share:
            self._total -= heapq.heappop(self._heap)[2]

    def ids(self) -> Iterator[str]:
        return (id_ for _, id_, _ in self._heap)
