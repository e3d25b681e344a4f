"""The data card: what is in the corpus, its origin and licence, and what was refused and why."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nodes.corpus.document import Origin
from nodes.corpus.schema import Parameters
from nodes.corpus.verdicts import SPLITS, Verdicts


def describe(p: Parameters, verdicts: Verdicts, origins: dict[str, Origin]) -> dict[str, Any]:
    """Return the card as data: origin, licence and counts by source; refusals by reason; counts by domain and split."""
    cells = [
        (name, p.sources[name].domain, split, documents, size)
        for (name, split), (documents, size) in verdicts.sizes().items()
        if documents
    ]
    return {
        "sources": {
            name: {
                "domain": source.domain,
                "origin": origins[name].name,
                "version": origins[name].version,
                "license": source.license,
                **_size(cell for cell in cells if cell[0] == name),
                "rejected": {reason: count for (of, reason), count in sorted(verdicts.refused.items()) if of == name},
            }
            for name, source in sorted(p.sources.items())
        },
        "domains": {
            domain: {
                **_size(cell for cell in cells if cell[1] == domain),
                "splits": {split: _size(cell for cell in cells if cell[1:3] == (domain, split)) for split in SPLITS},
            }
            for domain in sorted({cell[1] for cell in cells})
        },
        **_size(cells),
    }


def _size(cells: Iterable[tuple[str, str, str, int, int]]) -> dict[str, int]:
    """Return the number of documents and bytes of cells (source, domain, split, documents, bytes), summed."""
    chosen = list(cells)
    return {"documents": sum(cell[3] for cell in chosen), "bytes": sum(cell[4] for cell in chosen)}


def write(card: dict[str, Any], directory: Path) -> Path:
    """Write card.json and card.md into `directory`, creating it if needed."""
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
    for name, entry in card["sources"].items():
        lines.append(
            f"| {name} | {entry['domain']} | {entry['origin']} | {entry['version']} | {entry['license']} "
            f"| {entry['documents']:,} | {entry['bytes']:,} | {sum(entry['rejected'].values()):,} |"
        )
    lines += ["\n## Domains and splits\n", "| domain | documents | bytes | train | validation | test |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, entry in card["domains"].items():
        splits = " | ".join(f"{entry['splits'][split]['bytes']:,}" for split in ("train", "validation", "test"))
        lines.append(f"| {name} | {entry['documents']:,} | {entry['bytes']:,} | {splits} |")
    lines += ["\nSplit columns count bytes.\n", "## Refused\n", "| source | reason | documents |", "|---|---|---:|"]
    for name, entry in card["sources"].items():
        lines += [f"| {name} | {reason} | {count:,} |" for reason, count in entry["rejected"].items()]
    return "\n".join(lines) + "\n"
