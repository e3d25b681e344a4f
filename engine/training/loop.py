"""The training loop of every stage: batches in, weights and history out, resumable bit for bit after any kill.

It runs in the same way in one process and in each of several ranks (engine/parallel/data): every rank makes the same
batches, takes its share, and after the sums over ranks updates the same weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from engine.artifacts.files import canonical_json, write_atomic
from engine.errors import UserError
from engine.launch import drain
from engine.model.balance import load_floor
from engine.model.model import K2Model
from engine.optim.schedule import Schedule
from engine.parallel import data
from engine.parallel.layout import Grid
from engine.training.batches import Batch, pieces, share, tokens_of
from engine.training.guard import Guard
from engine.training.history import read_history
from engine.training.journal import HISTORY, TRAINING, Journal
from engine.training.numerics import autocast, fingerprint, settle
from engine.training.position import CHECKPOINTS, close_is_enough
from engine.training.resume import CheckpointStore
from engine.training.sealed import Saved
from engine.training.settings import OptimizerSettings
from engine.training.state import Optimizer, TrainState
from kernels.host import to_host

LossFn = Callable[[Batch], tuple[Tensor, dict[str, float | Tensor]]]
Figures = dict[str, Any]
LARGEST = "_max"
"""Figures whose names end in this are reduced by the maximum; all others are averaged."""
ASKED = "asked to end soon"
"""Sent with a step's figures, so that all ranks learn after the same step, in no extra message, if any was asked."""


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs. `dtype` is "float32" or "bfloat16" (autocast); `grad_clip` is a norm, None for no clipping.

    Every `heads_every` steps the history also holds each head's maximum logit. `skip_spikes` and `nonfinite_steps` are
    the guard's (engine/training/guard.py). Another attempt can continue only after a multiple of `resumable_every`
    steps; `checkpoint_every` must be one.
    """

    steps: int
    checkpoint_every: int
    threads: int
    dtype: str
    grad_clip: float | None = None
    heads_every: int = 10
    skip_spikes: bool = False
    nonfinite_steps: int = 1
    resumable_every: int = 1

    @classmethod
    def of(
        cls, optimizer: OptimizerSettings, *, steps: int, checkpoint_every: int, threads: int, dtype: str, **more: int
    ) -> Self:
        """Return a stage's settings, clipping and guard as its optimizer's parameters say; `more` sets other fields."""
        return cls(
            steps, checkpoint_every, threads, dtype, grad_clip=optimizer.grad_clip,
            skip_spikes=optimizer.skip_spikes, nonfinite_steps=optimizer.nonfinite_steps, **more,
        )  # fmt: skip


def train_loop(
    model: K2Model,
    optimizer: Optimizer,
    batch_at: Callable[[int], Batch],
    loss_fn: LossFn,
    schedule: Schedule,
    settings: LoopSettings,
    work: Path,
    title: str,
    *,
    micro_batches: int = 1,
    after_step: Callable[[int, Figures], None] | None = None,
    bias_rate_at: Callable[[int], float] | None = None,
) -> Path:
    """Train the remaining ones of `settings.steps` steps; return the history file, one JSON row per step.

    `batch_at(step)` counts from 0 and must be a pure function: of the step, and for RL of the model before the step
    (then make `resumable_every` the number of steps that share a batch). `schedule` is in steps. `loss_fn` returns the
    mean loss of a micro-batch and figures for the row, the same names for each; both are averaged over the
    micro-batches of all ranks (names that end in `_max`: the maximum), so a masked loss must divide by a 0-d tensor of
    the batch and not by its own mask (engine/training/batches.py). `after_step(completed, row)` may add figures to the
    row; it must not change the model. `bias_rate_at(step)` is the router bias's update rate u (None: the biases stay).
    The model is trained in place; after a kill, call again with the same arguments. All ranks use the first one's
    `work`, where only that rank writes.

    Raises UserError, before anything is written, if the schedule is shorter than the training. Raises UserError naming
    the step if loss or gradient is not finite (`settings.nonfinite_steps` times in a row); the
    last checkpoint stays. Raises Drained, after a checkpoint, if any rank was asked to end soon
    (engine/launch/drain.py); another attempt does the remaining steps.
    """
    _require_whole(schedule, settings.steps, title)
    settle(settings.threads)
    ranks, work = data.ranks(), data.from_first(work)
    store = _store(work, settings, next(model.parameters()).device.type)
    state = TrainState(model, optimizer)
    saved = _resume(state, store)
    guard = Guard(title, settings.skip_spikes, settings.nonfinite_steps)
    guard.recall(read_history(work / HISTORY))  # which the first rank has cut to the checkpoint
    done = state.step
    with drain.heeded(), Journal(work, title, settings.steps, done, ranks.first) as journal, store:
        for note in store.notes:
            journal.log.info(f"{title}: WARNING: {note}")
        if saved and saved.worlds[-1][1] != ranks.size:
            journal.log.info(
                f"{title}: WARNING: begun with {saved.worlds[-1][1]} processes and resumed at step {done} with "
                f"{ranks.size}: the data keeps its order, the result will differ in its last bits"
            )
        for step in range(done, settings.steps):
            batch = batch_at(step)
            model.train()
            lr = schedule.lr(step + 1)
            optimizer.set_lr(lr)
            row = {"step": step + 1, "lr": lr} | _backward(model, batch, loss_fn, settings, micro_batches, title)
            must_end = row.pop(ASKED) > 0
            verdict = guard.judge(row)
            if verdict.note:
                journal.log.info(verdict.note)
            row |= _move(model, optimizer, verdict.take, settings, step, bias_rate_at)
            state.step += 1
            if after_step is not None:
                after_step(step + 1, row)
            journal.write(row, tokens_of(batch))
            last, leaving = step + 1 == settings.steps, must_end and (step + 1) % settings.resumable_every == 0
            if (step + 1) % settings.checkpoint_every == 0 or last or leaving:
                journal.sync()
                _checkpoint(state, store)
            if leaving and not last:
                store.wait()
                data.from_first(
                    None
                )  # the first rank that leaves makes torchrun stop the others, so wait until all have written
                journal.log.info(f"{title}: asked to end soon: left a checkpoint after step {step + 1}")
                raise drain.Drained
    _finish(work, settings.steps, store, done)
    model.eval()
    return work / HISTORY


def _require_whole(schedule: Schedule, steps: int, title: str) -> None:
    if schedule.total < steps:
        raise UserError(
            f"{title}: the phases of the schedule add up to {schedule.total:,} steps, but {steps:,} are to be trained; "
            "correct the phases' lengths or the steps"
        )


def _store(work: Path, settings: LoopSettings, device: str) -> CheckpointStore:
    if data.ranks().first:
        work.mkdir(parents=True, exist_ok=True)
        (work / HISTORY).touch()
    numerics = fingerprint(settings.threads, settings.dtype, device)
    grid = Grid(dp=data.ranks().size)
    return CheckpointStore(work / CHECKPOINTS, work / HISTORY, numerics, grid, close_is_enough())


def _resume(state: TrainState, store: CheckpointStore) -> Saved | None:
    """Load the latest checkpoint, if any."""
    saved = store.latest()
    if saved:
        store.load(saved, state)
    _require_same(state.tensors(), "at the start")
    return saved


def _checkpoint(state: TrainState, store: CheckpointStore) -> None:
    """Begin to write a checkpoint after checking that the ranks' states are equal."""
    _require_same(state.tensors(), f"after step {state.step}")
    store.save(state)


def _require_same(state: Mapping[str, Tensor], when: str) -> None:
    if data.ranks().size > 1:
        data.require_same(data.checksum(state.values()), f"the weights {when}")


def _finish(work: Path, steps: int, store: CheckpointStore, resumed_at: int) -> None:
    """Write what identifies the end: equal digests mean equal weights, router biases and optimizer state.

    Also written is how it was reached: the step from which the last attempt continued, and how many ranks trained when.
    """
    summary = {
        "steps": steps,
        "state_digest": store.digest,
        "resumed_at": resumed_at,
        "world_size": data.ranks().size,
        "worlds": store.worlds,
        "numerics": store.fingerprint,
        "past": store.past,
    }
    if data.ranks().first:
        write_atomic(work / TRAINING, canonical_json(summary))
    data.from_first(None)  # so that no rank reads the history before it is complete


def _backward(
    model: K2Model, batch: Batch, loss_fn: LossFn, settings: LoopSettings, micro_batches: int, title: str
) -> Figures:
    """Compute gradients of the mean loss over all micro-batches of all ranks; return loss, figures and gradient norm.

    The figures include ASKED, above 0 if any rank is to end soon, which the loop removes. Largest logits and expert
    loads, which the forwards left in the model, are reduced over the ranks too.
    """
    device, ranks = next(model.parameters()).device, data.ranks()
    parts = pieces(micro_batches, ranks.size)
    made: list[dict[str, float | Tensor]] = []
    for micro in share(batch, micro_batches, ranks, device, title):
        with autocast(settings.dtype, device.type):
            loss, aux = loss_fn(micro)
        (loss / parts).backward()
        figures = {"loss": loss} | aux
        made.append({name: v.detach() if isinstance(v, Tensor) else v for name, v in figures.items()})
    parameters = list(model.parameters())
    data.sum_gradients_(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if settings.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.grad_clip, norm)
    *read, grad_norm = _read([*made, {"grad_norm": norm}])
    means: dict[str, float] = {}
    largest: dict[str, float] = {ASKED: float(drain.end_requested())}
    for name, figure in (pair for figures in read for pair in figures.items()):
        if name.endswith(LARGEST):
            largest[name] = _larger(largest.get(name, figure), figure)
        else:
            means[name] = means.get(name, 0.0) + figure / parts
    return {**_over_ranks(model, means, largest), **grad_norm}


def _read(figures: Sequence[Mapping[str, float | Tensor]]) -> list[dict[str, float]]:
    """Return figures as numbers, after waiting once for the device."""
    values = iter(to_host(*(value for of in figures for value in of.values() if isinstance(value, Tensor))))
    return [
        {name: float(next(values) if isinstance(value, Tensor) else value) for name, value in of.items()}
        for of in figures
    ]


def _larger(a: float, b: float) -> float:
    """Return the larger of two numbers; NaN if one is NaN, which max() would lose."""
    return a if a > b or math.isnan(a) else b


def _over_ranks(model: K2Model, means: Mapping[str, float], largest: Mapping[str, float]) -> Figures:
    """Return the row's figures over all ranks, ordered by name; also reduces maxima and loads in the model."""
    if data.ranks().size == 1:
        return {**means, **largest}
    device = next(model.parameters()).device
    sums, tops = (torch.tensor(list(of.values()), dtype=torch.float64, device=device) for of in (means, largest))
    data.sum_([sums, *(router.load_E for router in model.routers().values())])
    data.max_([tops, *(attention.max_logit_H for attention in model.attentions())])
    values = [value for part in to_host(sums, tops) for value in part.tolist()]
    return dict(zip([*means, *largest], values, strict=True))


def _move(
    model: K2Model,
    optimizer: Optimizer,
    take: bool,
    settings: LoopSettings,
    step: int,
    bias_rate_at: Callable[[int], float] | None,
) -> Figures:
    """Take or skip the step and return figures for the row; logits, loads and gradients are reset in either case."""
    heads = _heads(model) if take and (step + 1) % settings.heads_every == 0 else {}
    row = optimizer.step() if take else _stand_still(model)
    balance = _balance(model, bias_rate_at(step) if take and bias_rate_at else 0.0)
    optimizer.zero_grad()
    return row | heads | balance


def _stand_still(model: K2Model) -> Figures:
    """Reset the logits of a skipped step's forwards, as the optimizer would; return the figures it would have given."""
    (largest,) = to_host(torch.stack([attention.max_logit_H.max() for attention in model.attentions()]).max())
    for attention in model.attentions():
        attention.reset_max_logit()
    return {"skipped": 1.0, "max_logit": float(largest), "clipped_heads": 0.0}


def _heads(model: K2Model) -> Figures:
    """Return each head's maximum logit, one list per layer, before the optimizer resets them."""
    maxima = to_host(*(attention.max_logit_H for attention in model.attentions()))
    return {"max_logit_heads": [[round(s, 3) for s in max_logit_H.tolist()] for max_logit_H in maxima]}


def _balance(model: K2Model, rate: float) -> Figures:
    """Update every router's bias; return worst and mean of the layers' max/mean load, and the load of pure chance."""
    routers = list(model.routers().values())
    if not routers:
        return {}
    assigned = routers[0].load_E.sum()
    total, *loads = map(float, to_host(assigned, *(router.balance_(rate) for router in routers)))
    floor = load_floor(int(total) // routers[0].k, routers[0].load_E.numel(), routers[0].k)
    return {"expert_load_max": max(loads), "expert_load_mean": sum(loads) / len(loads), "expert_load_floor": floor}
