"""The corpus from its sources: read, clean, judge, deduplicate, decontaminate, split."""

from collections.abc import Iterable

import polars as pl

from engine.progress import progress
from nodes.corpus import files, installed, maths
from nodes.corpus.clean import normal_form, refusal
from nodes.corpus.decontaminate import contaminated
from nodes.corpus.document import Origin, RawDocument, document_id, draw, split_long, unit_hash
from nodes.corpus.minhash import clusters, shingles, signatures, similar_pairs
from nodes.corpus.schema import (
    DocstringSource,
    ElementsSource,
    FactbookSource,
    FileSource,
    MathsSource,
    NearDuplicates,
    Parameters,
    Source,
    StdlibSource,
)


def read(name: str, source: Source, seed: int) -> tuple[Origin, Iterable[RawDocument]]:
    """The documents of one source, and where they come from."""
    match source:
        case StdlibSource():
            return installed.python_origin(), installed.read_stdlib(source)
        case DocstringSource():
            return installed.python_origin(), installed.read_docstrings(source)
        case FactbookSource():
            return installed.factbook_origin(), installed.read_factbook(source)
        case ElementsSource():
            return installed.elements_origin(), installed.read_elements(source)
        case MathsSource():
            return maths.maths_origin(), maths.read_maths(source, seed)
        case FileSource():
            return files.file_origin(name, source), files.read_files(name, source)


def collect(p: Parameters) -> tuple[pl.DataFrame, dict[str, Origin]]:
    """All parts of the documents drawn from all sources, before judgement.

    Columns: id, parent (what a part was cut from or grouped with), domain, source, title, text, license.
    """
    frames, origins = [], {}
    with progress("reading sources", len(p.sources)) as bar:
        for name, source in sorted(p.sources.items()):
            origins[name], documents = read(name, source, p.seed)
            drawn = draw(documents, source.max_bytes, p.seed)
            frames.append(_parts(p, name, source, drawn))
            bar.advance(1, source=name)
    return pl.concat(frames).sort("id", "source", "title"), origins


def _parts(p: Parameters, name: str, source: Source, drawn: list[RawDocument]) -> pl.DataFrame:
    raw = pl.DataFrame(
        [(document.title, document.text, document.group) for document in drawn],
        schema=dict.fromkeys(("title", "text", "group"), pl.String),
        orient="row",
    ).with_columns(normal_form(pl.col("text")))
    rows = []
    for title, text, group in raw.iter_rows():
        parent = f"{name}: {group}" if group else document_id(text)
        parts = list(split_long(text, p.max_part_bytes, p.max_parts))
        for number, part in enumerate(parts, 1):
            numbered = f"{title} (part {number})" if len(parts) > 1 else title
            rows.append((document_id(part), parent, source.domain, name, numbered, part, source.license))
    columns = ("id", "parent", "domain", "source", "title", "text", "license")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def judge(p: Parameters, parts: pl.DataFrame) -> pl.DataFrame:
    """Add `reason` (null for what stays) and `group` (least id of the documents that must share a split)."""
    judged = parts.with_columns(refusal({str(domain): limits for domain, limits in p.quality.items()}).alias("reason"))
    judged = judged.with_columns(
        pl.when(pl.col("reason").is_null() & ~pl.col("id").is_first_distinct())
        .then(pl.lit("exact_duplicate"))
        .otherwise("reason")
        .alias("reason")
    )
    held_out = [source.sum_task for source in p.sources.values() if isinstance(source, MathsSource)]
    judged = judged.with_columns(
        pl.when(pl.col("reason").is_null() & contaminated(judged["text"], held_out))
        .then(pl.lit("contaminated"))
        .otherwise("reason")
        .alias("reason")
    )
    kept = judged.filter(pl.col("reason").is_null())
    return pl.concat([_without_near_duplicates(p, kept), judged.filter(pl.col("reason").is_not_null())], how="diagonal")


def _without_near_duplicates(p: Parameters, kept: pl.DataFrame) -> pl.DataFrame:
    """Mark near-duplicates, and group what must not straddle splits: similar documents and parts of one document."""
    pairs = _similar(p.near_duplicates, kept, p.seed)
    gone: dict[int, int] = {}
    for i, j, similarity in pairs:  # sorted: the document with the least id of a pair stays
        if similarity >= p.near_duplicates.duplicate_similarity and i not in gone:
            gone.setdefault(j, i)
    ids = kept["id"].to_list()
    first: dict[str, int] = {}
    siblings = [(first.setdefault(parent, at), at) for at, parent in enumerate(kept["parent"])]
    roots = clusters(len(ids), [*((i, j) for i, j, _ in pairs), *siblings])
    reasons = [f"near_duplicate of {ids[gone[at]]}" if at in gone else None for at in range(len(ids))]
    return kept.with_columns(
        pl.Series("reason", reasons, dtype=pl.String),
        pl.Series("group", [ids[root] for root in roots], dtype=pl.String),
    )


def _similar(settings: NearDuplicates, kept: pl.DataFrame, seed: int) -> list[tuple[int, int, float]]:
    signed = signatures(shingles(kept["text"].to_list(), settings.shingle_words), settings.bands * settings.rows, seed)
    return similar_pairs(signed, settings.bands, settings.rows, settings.cluster_similarity)


def split(p: Parameters, judged: pl.DataFrame) -> pl.DataFrame:
    """The documents that stay, with their split by the hash of their group; columns of schema.DOCUMENTS."""
    kept = judged.filter(pl.col("reason").is_null())
    splits = [_split_of(p, group) for group in kept["group"]]
    return (
        kept.with_columns(
            pl.Series("split", splits, dtype=pl.String), pl.col("text").str.len_bytes().cast(pl.Int64).alias("n_bytes")
        )
        .select("id", "domain", "source", "title", "text", "split", "license", "n_bytes")
        .sort("id")
    )


def _split_of(p: Parameters, group: str) -> str:
    at = unit_hash(p.seed, "split", group)
    if at < p.test_share:
        return "test"
    return "validation" if at < p.test_share + p.validation_share else "train"
