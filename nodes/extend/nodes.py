"""The nodes of the extend stage: from the base checkpoint to one with a longer context."""

from pathlib import Path
from typing import Any

from nodes.extend.schema import Parameters


def train_extend(
    tokenizer: Path, shards: Path, base_checkpoint: Path, parameters: dict[str, Any], workspace: Path
) -> tuple[Path, Path, dict[str, float | int | str]]:
    """Anneal at a longer sequence, then raise YaRN once more; return (checkpoint, report directory, metrics)."""
    import json

    from engine.model.checkpoint import load_checkpoint, load_config
    from engine.text.shards import TokenShards
    from engine.text.tokenizer import K2Tokenizer
    from engine.training.handoff import hand_off
    from engine.training.history import mean_of, mishaps, read_history, write_history
    from engine.training.numerics import settle
    from nodes.extend import report, train
    from nodes.extend.scaling import variants

    p = Parameters.model_validate(parameters)
    settle(p.threads)
    tok = K2Tokenizer.load(tokenizer)
    opened = TokenShards.open(shards, tok)
    base = load_checkpoint(base_checkpoint, tok.digest)
    _, extra = load_config(base_checkpoint)
    annealed, history = train.anneal(base, opened, p, workspace)
    directory = write_history(history, workspace / "report", "Long-context anneal")

    models = variants(annealed, p, base.config.max_position_embeddings)
    measured = report.measure(models, opened, tok, p)
    report.write(measured, p, directory)
    extended = models["yarn"]
    extra |= {"stage": "extend", "trained_length": p.sequence_length}
    hand_off(workspace / "checkpoint", extended, extra, workspace)
    rows = read_history(history)
    metrics = report.figures(measured, p) | {
        "steps": p.schedule.total,
        **mishaps(rows),
        **mean_of([row for row in rows if "loss" in row][-1:], final_training_loss="loss"),
        "rope_scaling": json.dumps(extended.config.rope_scaling, sort_keys=True),
    }
    return workspace / "checkpoint", directory, metrics
