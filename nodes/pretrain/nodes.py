"""The nodes of the pretrain stage: from shards to the base checkpoint."""

from pathlib import Path
from typing import Any

from nodes.pretrain.schema import Parameters


def train_pretrain(
    tokenizer: Path, shards: Path, parameters: dict[str, Any], workspace: Path
) -> tuple[Path, Path, dict[str, float | int | str]]:
    """Pre-train from scratch; return (checkpoint, history directory, metrics)."""
    import json

    from engine.device import device
    from engine.model.model import K2Model
    from engine.parallel.mesh import mesh
    from engine.text.shards import TokenShards
    from engine.text.tokenizer import K2Tokenizer
    from engine.training.handoff import hand_off
    from engine.training.history import read_history, write_history
    from engine.training.language import losses_by_domain
    from engine.training.numerics import settle
    from nodes.pretrain import train
    from nodes.pretrain.baselines import ngram_losses

    p = Parameters.model_validate(parameters)
    settle(p.threads)
    tok = K2Tokenizer.load(tokenizer)
    opened = TokenShards.open(shards, tok)
    config = train.configuration(p, opened.vocab_size)
    with device():
        model = K2Model(config, p.seed, mesh().part(config))
    history = train.pretrain(model, opened, p, workspace)

    windows = train.final_windows(opened, p)
    by_domain = losses_by_domain(model, windows, p.dtype)
    ngrams = ngram_losses(opened.split("train"), windows, p.baseline_orders, opened.vocab_size)
    levels = {name: loss.nats_per_token for name, loss in ngrams.items()}
    directory = write_history(history, workspace / "history", "Pre-training", levels)
    table = train.baseline_table(by_domain, ngrams)
    (directory / "baselines.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    extra = {"stage": "pretrain", "tokenizer": tok.digest, "trained_length": p.sequence_length}
    hand_off(workspace / "checkpoint", model, extra, workspace)
    return workspace / "checkpoint", directory, train.figures(by_domain, ngrams, read_history(history), p, config)
