"""Build the corpus from its sources: read, clean, judge, deduplicate, decontaminate, split.

Texts and signatures are on disk (`spool`, `minhash`); only a few numbers per part are in memory (`verdicts`), so
memory grows with the size of a batch and not with that of the corpus.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import polars as pl

from engine.artifacts.schema import TableSchema
from engine.artifacts.tables import ROW_GROUP, polars_schema
from engine.progress import progress
from nodes.corpus.clean import normal_form, refusal
from nodes.corpus.decontaminate import contaminated
from nodes.corpus.document import Origin, RawDocument, document_id, split_long
from nodes.corpus.minhash import SignatureFile, Words, shingles, signatures, similar_pairs
from nodes.corpus.schema import DOCUMENTS, REJECTED_DOCUMENTS, Parameters
from nodes.corpus.sources import MathsSource, SourceKind
from nodes.corpus.spool import Part, Spool
from nodes.corpus.verdicts import Verdicts

PART_BYTES = 1 << 24
"""Bytes of text in one file of the table, which are in memory while it is written."""


def collect(p: Parameters, spool: Spool) -> dict[str, Origin]:
    """Put all parts of the documents drawn from all sources into the spool; return where the sources come from.

    A part that breaks a limit of its domain is stored with the reason of its refusal.
    """
    origins = {}
    with progress("reading sources", len(p.sources)) as bar, spool.writing() as writer:
        for name, source in sorted(p.sources.items()):
            origins[name], documents = source.read(name, p.seed)
            for batch in spool.draw(writer, documents, source.max_bytes, p.seed):
                spool.add(writer, _parts(p, name, source, batch))
            bar.advance(1, source=name)
    return origins


def _parts(p: Parameters, name: str, source: SourceKind, documents: list[RawDocument]) -> Iterator[Part]:
    raw = pl.DataFrame(
        [(document.title, document.text, document.group) for document in documents],
        schema=dict.fromkeys(("title", "text", "group"), pl.String),
        orient="row",
    ).with_columns(normal_form(pl.col("text")))
    rows = []
    for title, text, group in raw.iter_rows():
        parent = f"{name}: {group}" if group else document_id(text)
        parts = list(split_long(text, p.max_part_bytes, p.max_parts))
        for number, part in enumerate(parts, 1):
            numbered = f"{title} (part {number})" if len(parts) > 1 else title
            rows.append((document_id(part), name, numbered, parent, part))
    frame = pl.DataFrame(
        rows, schema=dict.fromkeys(("id", "source", "title", "parent", "text"), pl.String), orient="row"
    )
    limits = {str(source.domain): p.quality[source.domain]}
    judged = frame.with_columns(pl.lit(source.domain).alias("domain"), pl.lit(None, pl.String).alias("reason"))
    return judged.with_columns(refusal(limits).alias("reason")).drop("domain").iter_rows()


def judge(p: Parameters, spool: Spool) -> Verdicts:
    """Decide on each part, in the spool's order: refuse it, as duplicate or contaminated, or give it a split."""
    held_out = [source.sum_task for source in p.sources.values() if isinstance(source, MathsSource)]
    settings = p.near_duplicates
    signed = SignatureFile(spool.folder, settings.bands, settings.rows)
    verdicts = Verdicts(sorted(p.sources))
    known = Words()
    before = ""
    with progress("judging documents", spool.rows) as bar:
        for batch in spool.parts():
            held = contaminated(pl.Series([part[4] for part in batch], dtype=pl.String), held_out)
            kept = []
            for (id_, source, _, parent, text, refused), is_held_out in zip(batch, held):
                reason = refused or ("exact_duplicate" if id_ == before else "contaminated" if is_held_out else None)
                before = id_
                verdicts.add(id_, source, parent, len(text.encode()), reason)
                if reason is None:
                    kept.append(text)
            if kept:
                sets = shingles(kept, settings.shingle_words, known)
                signed.append(signatures(sets, settings.bands * settings.rows, p.seed))
            bar.advance(len(batch))
    verdicts.settle(p, similar_pairs(signed, settings.cluster_similarity))
    return verdicts


def documents(p: Parameters, spool: Spool, verdicts: Verdicts) -> Iterator[pl.DataFrame]:
    """Yield the documents that stay, by id, in frames of about `PART_BYTES` of text; columns of schema.DOCUMENTS."""
    kept = verdicts.splits()
    rows: list[tuple[Any, ...]] = []
    size = 0
    for part, refused in zip(chain.from_iterable(spool.parts()), verdicts.reasons()):
        if refused:
            continue
        id_, source, title, _, text, _ = part
        n_bytes = len(text.encode())
        if size and size + n_bytes > PART_BYTES:
            yield _frame(rows, DOCUMENTS)
            rows, size = [], 0
        size += n_bytes
        described = p.sources[source]
        rows.append((id_, described.domain, source, title, text, next(kept), described.license, n_bytes))
    if rows:
        yield _frame(rows, DOCUMENTS)


def rejected(p: Parameters, spool: Spool, verdicts: Verdicts) -> Iterator[pl.DataFrame]:
    """Yield the refused documents with the reason, by id; columns of schema.REJECTED_DOCUMENTS."""
    rows: list[tuple[Any, ...]] = []
    for part, reason in zip(chain.from_iterable(spool.parts()), verdicts.reasons()):
        if reason:
            rows.append((part[0], p.sources[part[1]].domain, part[1], part[2], reason))
        if len(rows) == ROW_GROUP:
            yield _frame(rows, REJECTED_DOCUMENTS)
            rows = []
    if rows:
        yield _frame(rows, REJECTED_DOCUMENTS)


def _frame(rows: list[tuple[Any, ...]], schema: TableSchema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=polars_schema(schema), orient="row")
