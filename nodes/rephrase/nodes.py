"""The nodes of the rephrase stage."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.rephrase.schema import REJECTED_REWRITES, REWRITES, Parameters

if TYPE_CHECKING:
    import polars as pl


def rephrase_documents(
    documents: "pl.LazyFrame", parameters: dict[str, Any], workspace: Path
) -> "tuple[pl.DataFrame, pl.DataFrame, dict[str, float | int | str]]":
    """Rewrite training documents in many styles and perspectives; keep what the fidelity gate accepts.

    Returns rewrites, rejected_rewrites and rephrase_metrics. Rewrites are kept in `workspace`, several per file, and
    may be made by several processes; replies of language models are cached there too, so that a rerun after a kill
    repeats no call. Raises UserError if the model is not installed or cannot be reached.
    """
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from engine.launch import job_array
    from engine.llm import client
    from nodes.rephrase.model import ModelWriter
    from nodes.rephrase.template import TemplateWriter
    from nodes.rephrase.write import ORDERS_A_BLOCK, count, fulfil, model_orders, orders

    p = Parameters.model_validate(parameters)
    train = documents.filter(pl.col("split") == "train")
    template, by_model = TemplateWriter(), model_orders(p, train)
    with client(p.model.llm, workspace / "llm", "parameters/rephrase.yml: rephrase.model.llm") as chat:
        model = ModelWriter(chat, p.model.max_tokens, p.model.temperature, p.seed)
        slow = (partial(fulfil, p, order, model, p.model.chunk_bytes) for order in by_model)
        fast = (partial(fulfil, p, order, template, p.chunk_bytes) for order in orders(p, train))
        rows = job_array.table(
            workspace / "rewritten",
            "rephrasing",
            chain(job_array.blocks(slow, 1), job_array.blocks(fast, ORDERS_A_BLOCK)),
            len(by_model) + count(p, train),
            lambda block: (rewrite() for rewrite in block),
            polars_schema(REJECTED_REWRITES),
        )
    frame = rows.collect().sort("id", "style", "perspective")
    repeated = pl.col("id").cum_count().over("id") > 1  # two styles of one document gave the same text
    reasons = pl.when(repeated).then(pl.col("reasons").list.concat(pl.lit(["repeats another rewrite"])))
    frame = frame.with_columns(reasons.otherwise(pl.col("reasons")).alias("reasons"))
    accepted = frame.filter(pl.col("reasons").list.len() == 0).select(list(REWRITES))
    return accepted, frame.filter(pl.col("reasons").list.len() > 0), _metrics(train, frame)


def _metrics(train: "pl.LazyFrame", frame: "pl.DataFrame") -> dict[str, float | int | str]:
    import polars as pl

    fine = pl.col("reasons").list.len() == 0
    shares = frame.group_by("generator").agg(fine.mean().alias("share"), pl.len()).sort("generator")
    return {
        "source_documents": frame["source_id"].n_unique(),
        "train_documents": int(train.select(pl.len()).collect().item()),
        "rewrites": frame.height,
        "accepted": frame.filter(fine).height,
        "accepted_bytes": int(frame.filter(fine)["n_bytes"].sum()),
        **{f"accepted_share_{name}": round(share, 4) for name, share, _ in shares.iter_rows()},
        **{f"rewrites_{name}": count for name, _, count in shares.iter_rows()},
    }
