"""Supervised fine-tuning: cross-entropy of the assistant's tokens, with a weight for each kind of example."""

from collections import defaultdict
from pathlib import Path

from engine.model.model import K2Model
from engine.training.examples import Encoded
from engine.training.language import make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.natural import NaturalText
from engine.training.padded import GroupLoss, Padded, nll_reading, pad
from engine.training.readings import read
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


def validation_nll(model: K2Model, encoded: Encoded, rows: int = 32) -> dict[str, float]:
    """Return each kind's mean loss per token over its validation examples; a kind without tokens has none."""
    model.eval()
    batches: list[tuple[str, Padded]] = []
    for kind, examples in sorted(encoded.by_kind.items()):
        ordered = sorted(examples, key=lambda row: len(row[0]))  # similar lengths together, for little padding
        batches += [(kind, pad(ordered[start : start + rows])) for start in range(0, len(ordered), rows)]
    means = read(model, [nll_reading(batch.to(model.device)) for _, batch in batches], "float32")
    total: defaultdict[str, float] = defaultdict(float)
    tokens: defaultdict[str, int] = defaultdict(int)
    for (kind, batch), mean in zip(batches, to_host(*means), strict=True):
        total[kind] += float(mean) * batch.count
        tokens[kind] += batch.count
    return {kind: total[kind] / count for kind, count in tokens.items() if count}
