"""Train one unit, from its settings to its figures; a killed training can be resumed."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.artifacts.files import digest_bytes
from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from engine.model.size import n_params
from engine.text.shards import TokenShards
from engine.training.history import read_history
from engine.training.language import Loss, language_modelling, losses_by_domain, make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.numerics import settle
from engine.training.sources import Windows
from engine.training.state import TrainState
from kernels.host import to_host
from studies.clip_meter import ClipMeter
from studies.figures import curves_of, figures_of
from studies.schema import Settings
from studies.units import Unit, schedule_of, step_flops

CHECKPOINT_EVERY = 200  # steps; a kill loses at most some ten seconds of work
NATURAL = ("natural",)
Tick = Callable[[], None]


def train_unit(unit: Unit, shards: TokenShards, folder: Path, trunk: Path | None, tick: Tick) -> dict[str, Any]:
    """Train `unit` in `folder`, resumed from the checkpoint there; return its figures and curves.

    `trunk` is the folder of the unit that it branches off. `tick` is called after each step. Raises UserError
    where loss or gradient is not finite.
    """
    settle(1)
    s = unit.settings
    model = K2Model(config_from_parameters(s.model, shards.vocab_size, s.sequence_length), _seed(unit))
    optimizer = ClipMeter(make_optimizer(model, s.optimizer.lr, s.optimizer))
    if trunk is not None:
        copy_whole(trunk / snapshot(unit.leaves), folder / "run")
    start, counter = time.process_time(), _Count(tick)
    for stop in [*(step for step in unit.keep if step < unit.steps), unit.steps]:
        if (folder / snapshot(stop)).exists():
            continue
        history = _train_to(stop, unit, model, optimizer, shards, folder / "run", counter)
        if stop in unit.keep:
            copy_whole(folder / "run", folder / snapshot(stop))
    cpu_seconds = time.process_time() - start
    rows = read_history(history)
    loss = final_loss(model, shards, unit)
    step_tokens = s.batch_size * s.sequence_length
    size = n_params(model.config)[-1]
    figures: dict[str, Any] = {
        "loss": loss.nats_per_token,
        "bits_per_byte": loss.bits_per_byte,
        **figures_of(
            rows, warmup=s.schedule.warmup, tau=s.optimizer.tau or None, target=s.target_loss, step_tokens=step_tokens
        ),
        "weights": weights_digest(model),
        "parameters": size.total,
        "parameters_active": size.active,
        "tokens": unit.steps * step_tokens,
        "flops": unit.steps * step_flops(s, shards.vocab_size),
        # for a resumed run, the last part's, extrapolated to the whole
        "cpu_seconds": round(cpu_seconds * unit.steps / counter.steps, 1) if counter.steps else 0.0,
    }
    return {"figures": figures, "curves": curves_of(rows)}


def final_loss(model: K2Model, shards: TokenShards, unit: Unit) -> Loss:
    """Return the loss on held-out natural text of the unit's split: whole documents that no training run has seen."""
    s: Settings = unit.settings
    windows = shards.eval_windows(unit.split, s.sequence_length, NATURAL, s.final_windows)
    return losses_by_domain(model, windows)[""]


def weights_digest(model: K2Model) -> str:
    """Return a hash of every bit of the weights and router biases, in order of name."""
    state = model.state_dict()
    return digest_bytes(b"".join(name.encode() + to_host(state[name])[0].tobytes() for name in sorted(state)))


def snapshot(step: int) -> str:
    """Return the name of the folder with a trunk's state after `step` steps."""
    return f"at-{step}"


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder unless `target` exists; killed at any moment, `target` is whole or missing."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)


class _Count:
    """The count of steps made in this process, which calls `tick` after each."""

    def __init__(self, tick: Tick) -> None:
        self.steps, self._tick = 0, tick

    def one(self) -> None:
        self.steps += 1
        self._tick()


def _train_to(
    stop: int, unit: Unit, model: K2Model, optimizer: ClipMeter, shards: TokenShards, run: Path, counter: _Count
) -> Path:
    """Train up to `stop` steps under the schedule of the whole unit; return the history file."""
    s = unit.settings
    few = shards.eval_windows("validation", s.sequence_length, NATURAL, s.eval_windows)

    def after_step(completed: int, row: dict[str, Any]) -> None:
        if completed % s.eval_every == 0:
            row["validation_loss"] = losses_by_domain(model, few)[""].nats_per_token
        counter.one()

    return train_loop(
        TrainState(model, optimizer),
        Windows(shards.split("train"), s.batch_size, s.sequence_length, _seed(unit)),
        language_modelling,
        schedule_of(s, unit.steps),
        LoopSettings.of(
            s.optimizer, steps=stop, checkpoint_every=CHECKPOINT_EVERY, threads=1, dtype="float32", heads_every=1
        ),
        run,
        unit.folder,
        after_step=after_step,
        bias_rate_at=lambda _: s.router_bias_rate,
    )


def _seed(unit: Unit) -> int:
    """Return the seed of both initialisation and data order."""
    return unit.seed + unit.settings.seed_offset
