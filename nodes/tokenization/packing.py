"""Turn staged documents into shards: a mixture for the training split, everything for the held-out splits.

Documents share training windows without an attention mask. They stand one after the other in a shard, each closed by
[EOS], and a window begins and ends wherever its length cuts the shard, so that it may hold the end of one document and
the beginning of the next; only domains are never mixed in a window. K2's paper states no mask, and DeepSeek-V3, whose
architecture K2 takes over, packs documents without one (arXiv 2412.19437, section 4.1): the model learns that [EOS]
ends what belongs together, every window has the same shape, and attention needs no second kernel for sequences of
varying lengths.
"""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from engine.errors import UserError
from engine.text.mixture import quotas, select
from engine.text.shard_writer import ShardWriter
from engine.text.shards import SPLITS
from engine.text.tokenizer import K2Tokenizer
from nodes.tokenization.schema import Parameters
from nodes.tokenization.staging import Staging

Metrics = dict[str, float | int | str]


def _split_quotas(table: pl.DataFrame, split: str, p: Parameters) -> dict[str, int]:
    """Return the tokens to take by domain; held-out splits take all documents once, up to a cap."""
    rows = table.filter(pl.col("split") == split).group_by("domain").agg(pl.col("length").sum())
    available = dict(sorted(rows.iter_rows()))
    if not available:
        raise UserError(f"split {split!r} has no document in any input table: give corpus more text or larger splits.")
    if split == "train":
        return quotas(available, p.weights, p.train_tokens, p.max_epochs)
    return {domain: min(tokens, p.eval_tokens) for domain, tokens in available.items()}


def pack(
    staging: Staging, table: pl.DataFrame, tokenizer: K2Tokenizer, p: Parameters, directory: Path
) -> tuple[Path, Metrics]:
    """Write the shard directory from the staged documents of `table`; return it and the stage's headline metrics."""
    shutil.rmtree(directory, ignore_errors=True)
    writer = ShardWriter(directory, tokenizer, p.shard_tokens)
    report: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        quota = _split_quotas(table, split, p)
        report[split] = {}
        for domain in sorted(name for name in quota if quota[name]):
            rows = table.filter(pl.col("split") == split, pl.col("domain") == domain)
            order = select(rows["id"].to_list(), rows["length"].to_list(), quota[domain], p.seed, domain)
            writer.write(split, domain, rows["kind"][0], staging.entries(rows, order))
            report[split][domain] = {
                "kind": rows["kind"][0],
                "documents": len(order),
                "available_documents": rows.height,
                "available_tokens": int(rows["length"].sum()),
            }
    _account(report, writer.shards, p.weights)
    writer.close({"seed": p.seed, "asked_tokens": p.train_tokens, "splits": report})
    return directory, _metrics(report, tokenizer)


def _account(report: dict[str, dict[str, Any]], shards: list[dict[str, Any]], weights: dict[str, float]) -> None:
    """Add to `report` what was written of each split and domain, and the requested and realised training shares."""
    for split, domains in report.items():
        for domain, facts in domains.items():
            mine = [s for s in shards if s["split"] == split and s["domain"] == domain]
            facts["tokens"] = sum(s["tokens"] for s in mine)
            facts["bytes"] = sum(s["bytes"] for s in mine)
            facts["epochs"] = round(facts["tokens"] / facts["available_tokens"], 4)
        total = sum(facts["tokens"] for facts in domains.values())
        for domain, facts in domains.items():
            facts["realised"] = round(facts["tokens"] / total, 4)
            if split == "train":
                facts["asked"] = round(weights[domain] / sum(weights.values()), 4)


def _metrics(report: dict[str, dict[str, Any]], tokenizer: K2Tokenizer) -> Metrics:
    metrics: Metrics = {"vocab_size": tokenizer.vocab_size}
    for split, domains in report.items():
        tokens = sum(facts["tokens"] for facts in domains.values())
        metrics[f"{split}_tokens"] = tokens
        metrics[f"{split}_bytes_per_token"] = round(sum(facts["bytes"] for facts in domains.values()) / tokens, 4)
        for domain, facts in domains.items():
            metrics[f"{split}_tokens_{domain}"] = facts["tokens"]
            if split == "train":
                metrics[f"asked_share_{domain}"] = facts["asked"]
                metrics[f"realised_share_{domain}"] = facts["realised"]
                metrics[f"epochs_{domain}"] = facts["epochs"]
                metrics[f"bytes_per_token_{domain}"] = round(facts["bytes"] / facts["tokens"], 4)
    return metrics
