"""The nodes of the sft stage: examples from documents, trajectories and sums; then the fine-tuned checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.sft.schema import SFT_EXAMPLES, Parameters

if TYPE_CHECKING:
    import polars as pl


def build_examples(
    documents: "pl.LazyFrame", trajectories: "pl.LazyFrame", parameters: dict[str, Any], workspace: Path
) -> "pl.DataFrame":
    """Return the table of fine-tuning examples: chats, trajectories and demonstrations, in that order."""
    import polars as pl

    from nodes.sft import examples

    p = Parameters.model_validate(parameters)
    known = documents.filter((pl.col("domain") == "knowledge") & (pl.col("split") != "test"))
    chats = examples.chats(known.select("title", "text", "split").collect().iter_rows(named=True))
    used = trajectories.filter(pl.col("split") != "test").select("id", "messages", "tools", "split").collect()
    rows = [
        *examples.split_train(examples.pick(chats, p.examples.chat, p.seed), p.validation_share),
        *examples.split_train(
            examples.pick(examples.trajectories(used), p.examples.trajectory, p.seed), p.validation_share
        ),
        *examples.demonstrations(p.task, p.examples.demonstration, p.validation_share, p.seed),
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(SFT_EXAMPLES, pl.String))


def train_sft(
    tokenizer: Path,
    extended_checkpoint: Path,
    sft_examples: "pl.LazyFrame",
    shards: Path,
    parameters: dict[str, Any],
    workspace: Path,
) -> tuple[Path, Path, dict[str, float | int | str]]:
    """Fine-tune the extended checkpoint; return (checkpoint, history directory, metrics)."""
    from engine.keyed import key
    from engine.model.checkpoint import load_checkpoint
    from engine.model.config import require_context
    from engine.rollout.passrate import pass_rates, require_room
    from engine.rollout.verifiable import items
    from engine.text.tokenizer import K2Tokenizer
    from engine.training.examples import encode, require
    from engine.training.handoff import hand_off
    from engine.training.history import mishaps, read_history, write_history
    from engine.training.natural import NaturalText
    from engine.training.numerics import settle
    from nodes.sft import train
    from nodes.sft.plots import draw_history

    p = Parameters.model_validate(parameters)
    settle(p.threads)
    tok = K2Tokenizer.load(tokenizer)
    model = load_checkpoint(extended_checkpoint, tok.digest)
    require_context(model.config, p.max_tokens, "sft.max_tokens")
    table = sft_examples.collect()
    by_split = {
        split: encode(table.filter(split=split).iter_rows(named=True), tok, p.max_tokens, values=True)
        for split in ("train", "validation")
    }
    require(by_split["train"], p.batch.model_dump(), "sft.batch")
    prompts = items(p.task, "tuning", p.tuning_prompts, p.seed)
    require_room(model.config, tok, prompts, p.max_new_tokens, "sft.max_new_tokens")
    before = train.validation_nll(model, by_split["validation"])
    natural = NaturalText(shards, tok, p.natural.windows, p.natural.tokens, p.seed)
    history = train.fine_tune(model, by_split["train"], natural, p, workspace / "training")
    rates = pass_rates(
        model,
        tok,
        prompts,
        samples=p.tuning_samples,
        max_new_tokens=p.max_new_tokens,
        seed=key(p.seed, "sft tuning"),
    )
    metrics: dict[str, float | int | str] = {
        "pass_rate_tuning": sum(rates) / len(rates),
        "steps": p.steps,
        "examples_train": sum(len(rows) for rows in by_split["train"].by_kind.values()),
        "examples_too_long": by_split["train"].left_out + by_split["validation"].left_out,
    }
    for kind, value in train.validation_nll(model, by_split["validation"]).items():
        metrics |= {f"validation_loss_{kind}": value, f"validation_loss_{kind}_before": before[kind]}
    extra = {"stage": "sft", "tokenizer": tok.digest, "pass_rate_tuning": metrics["pass_rate_tuning"]}
    hand_off(workspace / "checkpoint", model, extra, workspace / "training")
    directory = write_history(history, workspace / "history", "Fine-tuning")
    rows = read_history(history)
    draw_history(rows, directory / "loss_by_kind.png")
    return workspace / "checkpoint", directory, metrics | mishaps(rows)
