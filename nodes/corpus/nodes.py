"""The nodes of the corpus stage."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.corpus.schema import Parameters

if TYPE_CHECKING:
    import polars as pl


def build_corpus(
    parameters: dict[str, Any], workspace: Path
) -> "tuple[Iterator[pl.DataFrame], Iterator[pl.DataFrame], Path, dict[str, float | int | str]]":
    """Read, clean, judge, deduplicate and split the sources, in memory that does not grow with the corpus.

    Returns documents, rejected_documents, corpus_card and corpus_metrics. Raises UserError if a source is missing,
    empty, unreadable or unreachable.
    """
    from engine.errors import UserError
    from nodes.corpus import build, card
    from nodes.corpus.spool import Spool

    p = Parameters.model_validate(parameters)
    spool = Spool(workspace / "spool")
    origins = build.collect(p, spool)
    verdicts = build.judge(p, spool)
    described = card.describe(p, verdicts, origins)
    if not described["documents"]:
        raise UserError("parameters/corpus.yml: corpus.quality refuses every document; loosen its limits")
    return (
        build.documents(p, spool, verdicts),
        build.rejected(p, spool, verdicts),
        card.write(described, workspace / "corpus_card"),
        _metrics(described),
    )


def _metrics(described: dict[str, Any]) -> dict[str, float | int | str]:
    rejected = [entry["rejected"] for entry in described["sources"].values()]
    return {
        "documents": described["documents"],
        "bytes": described["bytes"],
        **{f"bytes_{domain}": entry["bytes"] for domain, entry in described["domains"].items()},
        "rejected": sum(sum(reasons.values()) for reasons in rejected),
        "exact_duplicates": sum(reasons.get("exact_duplicate", 0) for reasons in rejected),
        "near_duplicates": sum(reasons.get("near_duplicate", 0) for reasons in rejected),
        "contaminated": sum(reasons.get("contaminated", 0) for reasons in rejected),
    }
