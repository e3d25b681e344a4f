"""Supervised fine-tuning: cross-entropy of the assistant's tokens, with a weight for each kind of example."""

from pathlib import Path

import torch

from engine.model.model import K2Model
from engine.training.examples import Encoded
from engine.training.language import make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.natural import NaturalText
from engine.training.padded import GroupLoss, mean_nll, pad
from engine.training.sources import Examples
from engine.training.state import TrainState
from kernels.host import to_host
from nodes.sft.schema import Parameters


def fine_tune(model: K2Model, encoded: Encoded, natural: NaturalText, p: Parameters, work: Path) -> Path:
    """Train the model in place on `encoded` and natural text; return the history file, one row per step."""
    return train_loop(
        TrainState(model, make_optimizer(model, p.learning_rate, p.optimizer)),
        Examples(encoded, p.batch.model_dump(), p.seed, natural),
        GroupLoss(p.weight_of),
        p.schedule,
        settings=LoopSettings.of(
            p.optimizer,
            steps=p.steps,
            checkpoint_every=p.checkpoint_every,
            threads=p.threads,
            dtype=p.dtype,
            micro_batches=p.micro_batches,
        ),
        work=work,
        title="sft",
    )


@torch.no_grad()
def validation_nll(model: K2Model, encoded: Encoded, rows: int = 32) -> dict[str, float]:
    """Return each kind's mean loss per token over its validation examples; a kind without tokens has none."""
    model.eval()
    out = {}
    for kind, examples in sorted(encoded.by_kind.items()):
        total, tokens = 0.0, 0
        ordered = sorted(examples, key=lambda row: len(row[0]))  # similar lengths together, for little padding
        for start in range(0, len(ordered), rows):
            batch = pad(ordered[start : start + rows])
            (mean,) = to_host(mean_nll(model, batch.to(model.device)))
            total += float(mean) * batch.count
            tokens += batch.count
        if tokens:
            out[kind] = total / tokens
    return out
