"""The long-context anneal: a few steps at a longer sequence while the learning rate falls (K2 section 2.5)."""

from pathlib import Path

from engine.errors import UserError
from engine.model.model import K2Model
from engine.text.shards import TokenShards
from engine.training.language import language_modelling, make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.sources import Windows
from engine.training.state import TrainState
from nodes.extend.scaling import rescaled, yarn
from nodes.extend.schema import Parameters


def anneal(base: K2Model, shards: TokenShards, p: Parameters, work: Path) -> tuple[K2Model, Path]:
    """Train a copy of `base` at `p.sequence_length` with YaRN; return the annealed model and the history file.

    The router biases stay fixed, as in every anneal. Raises UserError unless the length is beyond the base's.
    """
    trained = base.config.max_position_embeddings
    if p.sequence_length <= trained:
        raise UserError(
            f"parameters: extend.sequence_length is {p.sequence_length}, but the base checkpoint was already trained "
            f"at {trained}; make it longer"
        )
    model = rescaled(base, yarn(p, trained, p.sequence_length), p.sequence_length)
    history = train_loop(
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
        "extend",
    )
    return model, history
