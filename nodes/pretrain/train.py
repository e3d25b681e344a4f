"""Pre-training: batches of packed text, WSD, MuonClip, router biases; measurements during training and at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from engine.model.size import n_params
from engine.text.shards import EvalWindows, TokenShards
from engine.training.history import Row, curve, mean_of, mishaps
from engine.training.language import Loss, language_modelling, losses_by_domain, make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.sources import Windows
from engine.training.state import TrainState
from nodes.pretrain.schema import Parameters

NATURAL = ("natural",)


def configuration(p: Parameters, vocab_size: int) -> K2Config:
    """Return the model's configuration; its context is the length it is trained at."""
    return config_from_parameters(p.model, vocab_size, p.sequence_length)


def final_windows(shards: TokenShards, p: Parameters) -> EvalWindows:
    """Return the validation windows of natural text on which model and baselines are compared."""
    return shards.eval_windows("validation", p.sequence_length, NATURAL, p.validation.final_windows)


def pretrain(model: K2Model, shards: TokenShards, p: Parameters, work: Path) -> Path:
    """Train the model in place; return the history file, one row per step."""
    few = shards.eval_windows("validation", p.sequence_length, NATURAL, p.validation.windows)

    def after_step(completed: int, row: dict[str, Any]) -> None:
        if completed % p.validation.every == 0:
            row["validation_loss"] = losses_by_domain(model, few, p.dtype)[""].nats_per_token

    return train_loop(
        TrainState(model, make_optimizer(model, p.schedule.peak, p.optimizer)),
        Windows(shards.split("train"), p.batch_size, p.sequence_length, p.seed),
        language_modelling,
        p.schedule,
        LoopSettings.of(
            p.optimizer,
            steps=p.schedule.total,
            checkpoint_every=p.checkpoint_every,
            threads=p.threads,
            dtype=p.dtype,
            micro_batches=p.micro_batches,
        ),
        work,
        "pretrain",
        after_step=after_step,
        # Moonlight: the bias is updated until the cooldown and stays fixed in it.
        bias_rate_at=lambda step: p.router_bias_rate if step < p.schedule.begin("linear") else 0.0,
    )


def figures(
    by_domain: Mapping[str, Loss],
    ngrams: Mapping[str, Loss],
    rows: list[dict[str, Any]],
    p: Parameters,
    config: K2Config,
) -> dict[str, float | int | str]:
    """Return the headline metrics."""
    total = n_params(config)[-1]
    out: dict[str, float | int | str] = {
        "validation_loss": by_domain[""].nats_per_token,
        "validation_bits_per_byte": by_domain[""].bits_per_byte,
        "gain_over_bigram": ngrams["bigram"].nats_per_token - by_domain[""].nats_per_token,
    }
    for name, loss in ngrams.items():
        out |= {f"{name}_loss": loss.nats_per_token, f"{name}_bits_per_byte": loss.bits_per_byte}
    out |= {f"bits_per_byte_{name}": loss.bits_per_byte for name, loss in by_domain.items() if name}
    out |= {
        "steps": p.schedule.total,
        "tokens": p.schedule.total * p.batch_size * p.sequence_length,
        "parameters": total.total,
        "parameters_active": total.active,
        "clipped_heads": sum(row["clipped_heads"] for row in rows),
        **mishaps(rows),
        **mean_of(rows[-50:], final_training_loss="loss", expert_load_max_over_mean="expert_load_mean"),
    }
    if seen := curve(rows, "max_logit")[1]:
        out["peak_max_logit"] = max(seen)
    return out


def baseline_table(by_domain: Mapping[str, Loss], ngrams: Mapping[str, Loss]) -> dict[str, Row]:
    """Return the content of baselines.json: the model and each n-gram on the same tokens."""
    entries = {**ngrams, "model": by_domain[""]}
    return {
        name: {"nats_per_token": loss.nats_per_token, "bits_per_byte": loss.bits_per_byte}
        for name, loss in entries.items()
    }
