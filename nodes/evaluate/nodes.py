"""The node of the evaluate stage: measures all checkpoints and writes the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.evaluate.schema import Parameters

if TYPE_CHECKING:
    import polars as pl


def evaluate_checkpoints(
    tokenizer: Path,
    shards: Path,
    documents: "pl.LazyFrame",
    tasks: "pl.LazyFrame",
    parameters: dict[str, Any],
    workspace: Path,
    **trained: Any,
) -> tuple[Path, dict[str, float | int | str]]:
    """Run every suite on every checkpoint; return (report directory, metrics named metric_checkpoint).

    `trained` holds the directory of each `<name>_checkpoint` in the order of training, the last of which the report
    describes, and the metrics of each `<stage>_metrics`.
    """
    from dataclasses import asdict

    from engine.model.checkpoint import load_config
    from engine.model.size import n_params
    from engine.text.shards import TokenShards
    from engine.text.tokenizer import K2Tokenizer
    from engine.training.numerics import settle
    from nodes.evaluate.report.content import Facts
    from nodes.evaluate.report.metrics import flat_metrics
    from nodes.evaluate.report.sources import count_sources
    from nodes.evaluate.report.write import write_report
    from nodes.evaluate.run import evaluate_all
    from nodes.evaluate.suites.material import Material
    from nodes.evaluate.suites.registry import SUITES

    p = Parameters.model_validate(parameters)
    settle(p.threads)
    tok = K2Tokenizer.load(tokenizer)
    data = Material(TokenShards.open(shards, tok), documents, tasks)
    checkpoints: dict[str, Path] = _named(trained, "_checkpoint")
    results = evaluate_all(checkpoints, tok, data, p, workspace)
    config, _ = load_config(list(checkpoints.values())[-1])
    facts = Facts(
        results=results,
        suites=tuple(suite.info for suite in SUITES),
        metrics=_named(trained, "_metrics"),
        architecture=asdict(config),
        parameters=n_params(config)[-1].total,
        sources=count_sources(data.trained_documents()),
        seed=p.seed,
    )
    return write_report(facts, workspace / "report"), flat_metrics(facts)


def _named(trained: dict[str, Any], suffix: str) -> dict[str, Any]:
    """Return the inputs whose name ends in `suffix`, under the rest of their name."""
    return {name.removesuffix(suffix): value for name, value in trained.items() if name.endswith(suffix)}
