"""The three tables that are tokenized, read as one stream of rows, a chunk at a time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from engine.errors import UserError
from engine.remedy import make_again
from engine.text.call_ids import normalise_call_ids
from engine.text.chat import encode_chat, render
from engine.text.permutation import key
from engine.text.tokenizer import K2Tokenizer

REWRITES: Final = "rewrites"
TRAJECTORIES: Final = "trajectories"
_READ_ROWS: Final = 1024


@dataclass(frozen=True)
class Row:
    """One document: plain text, or a dialogue (messages, tools) that the chat template renders."""

    id: str
    domain: str
    topic: str
    kind: str
    split: str
    text: str = ""
    chat: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None = None

    def as_text(self) -> str:
        """The row as the BPE learns from it."""
        return self.text if self.chat is None else render(*self.chat)

    def encode(self, tokenizer: K2Tokenizer) -> list[int]:
        """Ids without the closing [EOS]."""
        return tokenizer.encode(self.text) if self.chat is None else encode_chat(tokenizer, *self.chat)[0]


def _rows(frame: pl.LazyFrame, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Rows of `columns`, in the table's order, without holding the table."""
    has = frame.collect_schema().names()
    for column in columns:
        if column not in has:
            raise UserError(f"table {table} has no column {column!r} (it has {', '.join(has)}): make it again.")
    for batch in frame.select(columns).collect_batches(chunk_size=_READ_ROWS, maintain_order=True):
        yield from batch.iter_rows()


def _dialogue(id_: str, messages: str, tools: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        dialogue, declared = json.loads(messages), json.loads(tools)
        if not (isinstance(dialogue, list) and dialogue and isinstance(declared, list)):
            raise TypeError("each must be a list, and messages not an empty one")
        return normalise_call_ids(dialogue), declared
    except UserError as error:
        raise UserError(f"trajectories, row {id_}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"trajectories, row {id_}: messages or tools are not OpenAI's JSON ({error}): "
            f"{make_again('tooluse', None, force=True)}."
        ) from None


def read(documents: pl.LazyFrame, rewrites: pl.LazyFrame, trajectories: pl.LazyFrame) -> Iterator[Row]:
    """All rows: documents (natural), then rewrites and trajectories (synthetic).

    A rewrite of a document outside the training split would carry it into training, so it is refused.
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
        chat = _dialogue(id_, messages, tools)
        yield Row(id_, TRAJECTORIES, domain, "synthetic", split, chat=chat)


def sample(rows: Callable[[], Iterator[Row]], weights: dict[str, float], train_bytes: int, seed: int) -> list[str]:
    """Training texts for the BPE: from each domain its share of `train_bytes`, chosen by a hash of their ids.

    Reads the rows twice, once for sizes and once for the chosen texts, so that only these are held. A domain that
    has less than its share gives what it has.
    """
    total = sum(weights.values())
    left = {name: train_bytes * weight / total for name, weight in weights.items()}
    sizes = sorted(
        (key(seed, "bpe", row.domain, row.id), row.domain, row.id, len(row.as_text().encode()))
        for row in rows()
        if row.split == "train" and left.get(row.domain, 0) > 0
    )
    chosen = set()
    for _, domain, id_, size in sizes:
        if left[domain] > 0:
            left[domain] -= size
            chosen.add((domain, id_))
    return [row.as_text() for row in rows() if row.split == "train" and (row.domain, row.id) in chosen]
