"""The node of the rl stage: from the fine-tuned checkpoint to the policy that is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.rl.schema import Parameters

if TYPE_CHECKING:
    import polars as pl


def train_rl(
    tokenizer: Path,
    sft_checkpoint: Path,
    sft_examples: "pl.LazyFrame",
    shards: Path,
    tasks: "pl.LazyFrame",
    parameters: dict[str, Any],
    workspace: Path,
) -> tuple[Path, "pl.LazyFrame", Path, dict[str, float | int | str]]:
    """Improve the fine-tuned checkpoint by K2's objective; return (checkpoint, rollouts, history, metrics).

    The held-out reward is reported before and after with the paired interval of its difference, whatever the result;
    `python -m benchmarks rl` is where it is required to rise.
    """
    import polars as pl

    from engine.model.checkpoint import load_checkpoint
    from engine.model.config import require_context
    from engine.text.tokenizer import K2Tokenizer
    from engine.training.examples import encode, require
    from engine.training.handoff import save_whole
    from engine.training.natural import NaturalText
    from engine.training.numerics import settle
    from nodes.rl.history import write_history
    from nodes.rl.outcome import outcome
    from nodes.rl.policy import PolicyTraining
    from nodes.rl.rewards import families_of
    from nodes.rl.tables import read_rollouts

    p = Parameters.model_validate(parameters)
    settle(p.threads)
    tok = K2Tokenizer.load(tokenizer)
    model = load_checkpoint(sft_checkpoint, tok.digest)
    require_context(model.config, p.ptx.max_tokens, "rl.ptx.max_tokens")
    require_context(model.config, p.ptx.natural_tokens, "rl.ptx.natural_tokens")
    families = families_of(tok, model.config, tasks, p)
    kinds = [kind for kind, size in p.ptx.examples.items() if size]
    used = sft_examples.filter((pl.col("split") == "train") & pl.col("kind").is_in(kinds)).collect()
    ptx = encode(used.iter_rows(named=True), tok, p.ptx.max_tokens)
    if p.ptx.weight > 0:
        require(ptx, p.ptx.examples, "rl.ptx")
    natural = NaturalText(shards, tok, p.ptx.natural if p.ptx.weight > 0 else 0, p.ptx.natural_tokens, p.seed)
    training = PolicyTraining(model, families, p, ptx=ptx, natural=natural, work=workspace / "training")
    history = training.run()
    iteration, best = training.candidates.best()
    metrics = outcome(load_checkpoint(sft_checkpoint), best, families, p)
    metrics |= training_metrics(history, training.candidates.judged(), iteration)
    save_whole(workspace / "checkpoint", best, {"stage": "rl", "tokenizer": tok.digest, "iteration": iteration})
    rollouts = read_rollouts(training.work / "rollouts")
    directory = write_history(history, training.candidates.judged(), workspace / "history")
    return workspace / "checkpoint", rollouts, directory, metrics


def training_metrics(history: Path, judged: list[tuple[int, float]], kept: int) -> dict[str, float | int | str]:
    """Return the headline figures of the run itself: the iteration kept, and averages over the last iterations."""
    from engine.training.history import curve, mean_of, mishaps, read_history

    rows = read_history(history)
    rates = dict(judged)
    last = rows[-max(1, len(rows) // 10) :]
    return {
        "iteration_kept": kept,
        "pass_rate_tuning_before": rates[0],
        "pass_rate_tuning_kept": rates[kept],
        "pass_rate_tuning_last": rates[max(rates)],
        "entropy_first": curve(rows, "entropy")[1][0],
        **mishaps(rows),
        **mean_of(last, truncated_share_last="truncated", entropy_last="entropy"),
    }
