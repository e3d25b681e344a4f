"""What the corpus pipeline wires."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.corpus.schema import Parameters

if TYPE_CHECKING:
    import polars as pl


def build_corpus(
    parameters: dict[str, Any], workspace: Path
) -> "tuple[pl.DataFrame, pl.DataFrame, Path, dict[str, float | int | str]]":
    """Read, clean, judge, deduplicate and split the sources.

    Returns documents, rejected_documents, corpus_card and corpus_metrics. Raises UserError for a source that is
    missing, empty, unreadable or unreachable.
    """
    import polars as pl

    from engine.errors import UserError
    from nodes.corpus import build, card

    p = Parameters.model_validate(parameters)
    parts, origins = build.collect(p)
    judged = build.judge(p, parts)
    documents = build.split(p, judged)
    if documents.is_empty():
        raise UserError("parameters/corpus.yml: corpus.quality refuses every document; loosen its limits")
    rejected = judged.filter(pl.col("reason").is_not_null()).select("id", "domain", "source", "title", "reason")
    described = card.describe(p, judged, documents, origins)
    return (
        documents,
        rejected.sort("id", "source", "title", "reason"),
        card.write(described, workspace / "corpus_card"),
        _metrics(described, rejected),
    )


def _metrics(described: dict[str, Any], rejected: "pl.DataFrame") -> dict[str, float | int | str]:
    reasons = rejected["reason"].str.split(" ").list.first()
    return {
        "documents": described["documents"],
        "bytes": described["bytes"],
        **{f"bytes_{domain}": one["bytes"] for domain, one in described["domains"].items()},
        "rejected": rejected.height,
        "exact_duplicates": int((reasons == "exact_duplicate").sum()),
        "near_duplicates": int((reasons == "near_duplicate").sum()),
        "contaminated": int((reasons == "contaminated").sum()),
    }
