"""The data card: what is in the corpus, from where, under which licence, and what was refused and why."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from nodes.corpus.document import Origin
from nodes.corpus.schema import Parameters


def describe(
    p: Parameters, judged: pl.DataFrame, documents: pl.DataFrame, origins: dict[str, Origin]
) -> dict[str, Any]:
    """The card as data: per source its origin, licence and counts; refusals by reason; counts by domain and split."""
    reasons = _refusals(judged)
    return {
        "sources": {
            name: {
                "domain": source.domain,
                "origin": origins[name].name,
                "version": origins[name].version,
                "license": source.license,
                **_size(documents.filter(pl.col("source") == name)),
                "rejected": reasons.get(name, {}),
            }
            for name, source in sorted(p.sources.items())
        },
        "domains": {
            domain: {
                **_size(documents.filter(pl.col("domain") == domain)),
                "splits": {
                    split: _size(documents.filter((pl.col("domain") == domain) & (pl.col("split") == split)))
                    for split in ("train", "validation", "test")
                },
            }
            for domain in sorted(documents["domain"].unique())
        },
        **_size(documents),
    }


def _size(frame: pl.DataFrame) -> dict[str, int]:
    return {"documents": frame.height, "bytes": int(frame["n_bytes"].sum())}


def _refusals(judged: pl.DataFrame) -> dict[str, dict[str, int]]:
    counted = (
        judged.filter(pl.col("reason").is_not_null())
        .with_columns(pl.col("reason").str.split(" ").list.first())
        .group_by("source", "reason")
        .len()
        .sort("source", "reason")
    )
    out: dict[str, dict[str, int]] = {}
    for source, reason, count in counted.iter_rows():
        out.setdefault(source, {})[reason] = count
    return out


def write(card: dict[str, Any], directory: Path) -> Path:
    """Write card.json and card.md into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / "card.md").write_text(_markdown(card), encoding="utf-8")
    return directory


def _markdown(card: dict[str, Any]) -> str:
    lines = [
        "# Corpus data card\n",
        f"{card['documents']:,} documents, {card['bytes']:,} bytes of text.\n",
        "## Sources\n",
        "| source | domain | origin | version | licence | documents | bytes | rejected |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for name, one in card["sources"].items():
        lines.append(
            f"| {name} | {one['domain']} | {one['origin']} | {one['version']} | {one['license']} "
            f"| {one['documents']:,} | {one['bytes']:,} | {sum(one['rejected'].values()):,} |"
        )
    lines += ["\n## Domains and splits\n", "| domain | documents | bytes | train | validation | test |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, one in card["domains"].items():
        splits = " | ".join(f"{one['splits'][split]['bytes']:,}" for split in ("train", "validation", "test"))
        lines.append(f"| {name} | {one['documents']:,} | {one['bytes']:,} | {splits} |")
    lines += ["\nSplit columns count bytes.\n", "## Refused\n", "| source | reason | documents |", "|---|---|---:|"]
    for name, one in card["sources"].items():
        lines += [f"| {name} | {reason} | {count:,} |" for reason, count in one["rejected"].items()]
    return "\n".join(lines) + "\n"
