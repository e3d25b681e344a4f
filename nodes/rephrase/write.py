"""Choose which documents are rewritten and how, and judge each rewrite."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Final

import polars as pl

from nodes.rephrase.gate import copied, judge
from nodes.rephrase.notes import METHOD_WORDS
from nodes.rephrase.pieces import Piece, Writer, join, pieces_of, prose_share, unit_hash
from nodes.rephrase.schema import Parameters


@dataclass(frozen=True)
class Order:
    """An order for one rewrite of a document."""

    source_id: str
    domain: str
    title: str
    text: str
    style: str
    perspective: str


Row = dict[str, str | int | list[str]]


ORDERS_A_BLOCK: Final = 128  # about a second of the template engine's work, which a killed run may lose
_READ_ROWS: Final = 1024


def orders(p: Parameters, documents: pl.LazyFrame) -> Iterator[Order]:
    """Yield the template engine's orders: `shares` of each domain's documents, `rewrites_per_document` pairs each.

    They come in the table's order, with one batch of the table in memory at a time.
    """
    read = documents.select("id", "domain", "title", "text")
    for batch in read.collect_batches(chunk_size=_READ_ROWS, maintain_order=True):
        for id_, domain, title, text in batch.iter_rows():
            if _is_chosen(p, id_, domain):
                for style, perspective in _pairs(p, id_, domain)[: p.rewrites_per_document]:
                    yield Order(id_, domain, title, text, style, perspective)


def count(p: Parameters, documents: pl.LazyFrame) -> int:
    """Return how many orders `orders` yields."""
    rows = documents.select("id", "domain").collect().iter_rows()
    return p.rewrites_per_document * sum(_is_chosen(p, id_, domain) for id_, domain in rows)


def _is_chosen(p: Parameters, document: str, domain: str) -> bool:
    return unit_hash(p.seed, "share", document) < p.shares.get(domain, 0.0)


def model_orders(p: Parameters, documents: pl.LazyFrame) -> list[Order]:
    """Return the language model's orders: `model.documents` short running texts, domains in turn, one pair each."""
    small = documents.filter(pl.col("n_bytes") <= p.model.max_document_bytes, pl.col("domain").is_in(p.model.domains))
    short = small.collect().sort("id")
    by_domain = []
    for domain in p.model.domains:
        rows = [
            row
            for row in short.filter(pl.col("domain") == domain).iter_rows(named=True)
            if prose_share(row["text"]) >= p.model.min_prose
        ]
        rows.sort(key=lambda row: unit_hash(p.seed, "model", row["id"]))
        by_domain.append(rows)
    longest = max((len(rows) for rows in by_domain), default=0)
    turn = [rows[at] for at in range(longest) for rows in by_domain if at < len(rows)]
    return [
        Order(row["id"], row["domain"], row["title"], row["text"], *_pairs(p, row["id"], row["domain"])[0])
        for row in turn[: p.model.documents]
    ]


def _pairs(p: Parameters, document: str, domain: str) -> list[tuple[str, str]]:
    """Return all (style, perspective) pairs of a domain, in an order that depends on the document."""
    pairs = product(p.styles_by_domain[domain], sorted(p.perspectives))
    return sorted(pairs, key=lambda pair: unit_hash(p.seed, "pair", document, *pair))


def fulfil(p: Parameters, order: Order, writer: Writer, chunk_bytes: int) -> Row:
    """Rewrite one document piece by piece and judge each piece; the columns are schema.REJECTED_REWRITES."""
    done: list[str] = []
    reasons: list[str] = []
    for number, (piece, rewrite) in enumerate(_rewritten(p, order, writer, chunk_bytes), 1):
        done.append(rewrite)
        method = METHOD_WORDS if piece.style.layout == "notes" else frozenset()
        refusals = judge(piece.text, rewrite, p.gate, order.title, piece.style.longest, method)
        reasons += [f"piece {number}: {reason}" for reason in refusals]
    text = "\n\n".join(done)
    reasons += copied(order.text, text, p.gate) if text.strip() else ["empty: nothing was written"]
    identity = blake2b(
        f"{order.source_id}:{writer.generator}:{order.style}:{order.perspective}:{text}".encode(), digest_size=8
    ).hexdigest()
    return {
        "id": identity,
        "source_id": order.source_id,
        "domain": order.domain,
        "style": order.style,
        "perspective": order.perspective,
        "chunks": len(done),
        "text": text,
        "generator": writer.generator,
        "n_bytes": len(text.encode()),
        "reasons": reasons,
    }


def _rewritten(p: Parameters, order: Order, writer: Writer, chunk_bytes: int) -> Iterator[tuple[Piece, str]]:
    """Yield each piece with its rewrite; a piece comes with the excerpt around it and the rewrites so far."""
    parts = pieces_of(order.text, chunk_bytes)
    texts = [join(part) for part in parts]
    done: list[str] = []
    for at, units in enumerate(parts):
        piece = Piece(
            units=units,
            title=order.title,
            excerpt=_excerpt(texts, at, p.excerpt_bytes),
            previous=tuple(done),
            style=p.styles[order.style],
            perspective=p.perspectives[order.perspective],
            key=f"{p.seed}:{order.source_id}:{order.style}:{order.perspective}:{at}",
        )
        done.append(writer.rewrite(piece))
        yield piece, done[-1]


def _excerpt(texts: list[str], at: int, max_bytes: int) -> str:
    """Return the pieces around piece `at`, adding the one before and the one after in turn while they fit."""
    low, high = at, at + 1
    size = len(texts[at].encode())
    while True:
        grown = False
        for index in (low - 1, high):
            if 0 <= index < len(texts) and size + len(texts[index].encode()) <= max_bytes:
                size += len(texts[index].encode())
                low, high = min(low, index), max(high, index + 1)
                grown = True
        if not grown:
            return "\n\n".join(texts[low:high])
