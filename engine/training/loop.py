"""The training loop of every stage: batches in, weights and history out, resumable bit for bit after any kill.

It runs in the same way in one process and in each of several ranks (engine/parallel/mesh): every replica reads its own
rows of a step's batch, and after the sums over ranks all update the same weights.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.artifacts.files import canonical_json, write_atomic
from engine.errors import UserError
from engine.launch import drain
from engine.optim.schedule import Schedule
from engine.parallel import data
from engine.parallel.agreement import require_equal
from engine.parallel.mesh import mesh
from engine.training.batches import Source, pieces, require_even, tokens_of
from engine.training.guard import Guard
from engine.training.history import read_history
from engine.training.journal import HISTORY, TRAINING, Journal
from engine.training.memory import saving_memory
from engine.training.numerics import fingerprint, settle
from engine.training.position import CHECKPOINTS, close_is_enough
from engine.training.resume import CheckpointStore
from engine.training.sealed import Saved
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from engine.training.step import ASKED, Figures, Objective, backward, move


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs. `dtype` is "float32" or "bfloat16" (autocast); `grad_clip` is a norm, None for no clipping.

    Every `heads_every` steps the history also holds each head's maximum logit. `skip_spikes` and `nonfinite_steps` are
    the guard's (engine/training/guard.py). Another attempt can continue only after a multiple of `resumable_every`
    steps; `checkpoint_every` must be one. A step's batch is cut into at least `micro_batches` over all ranks.
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
    micro_batches: int = 1

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
    state: TrainState,
    source: Source,
    objective: Objective,
    schedule: Schedule,
    settings: LoopSettings,
    work: Path,
    title: str,
    *,
    after_step: Callable[[int, Figures], None] | None = None,
    bias_rate_at: Callable[[int], float] | None = None,
) -> Path:
    """Train the remaining ones of `settings.steps` steps on one source; return the history file, one JSON row per step.

    The arguments are those of `Training`, whose errors are raised. `source` must be a pure function of the step.
    """
    training = Training(
        state, objective, schedule, settings, work, title, after_step=after_step, bias_rate_at=bias_rate_at
    )
    with training:
        training.run(source)
    return training.finish()


class Training:
    """A run of the loop, for which `state` is brought to the newest checkpoint in `work` when it is entered.

    `run` makes steps, as often as the caller likes: whoever needs an outer loop (RL samples between segments of steps)
    writes it around `run`. `finish`, after the last step, writes what identifies the end. All that the run changes is
    in `state`, which is trained in place; after a kill, do the same again with the same arguments.

    `schedule` is in steps. `after_step(completed, row)` may add figures to the row; it must not change the model.
    `bias_rate_at(step)`, counted from 0, is the router bias's update rate u (None: the biases stay). All ranks use the
    first one's `work`, where only that rank writes.

    Raises UserError, before anything is written, if the schedule is shorter than the training.
    """

    def __init__(
        self,
        state: TrainState,
        objective: Objective,
        schedule: Schedule,
        settings: LoopSettings,
        work: Path,
        title: str,
        *,
        after_step: Callable[[int, Figures], None] | None = None,
        bias_rate_at: Callable[[int], float] | None = None,
    ) -> None:
        _require_whole(schedule, settings.steps, title)
        self.state, self.objective, self.schedule, self.settings = state, objective, schedule, settings
        self.work, self.title = data.from_first(work), title
        self.after_step, self.bias_rate_at = after_step, bias_rate_at

    def __enter__(self) -> Self:
        """Bring the state to the newest checkpoint, and open the journal."""
        settings, title = self.settings, self.title
        settle(settings.threads)
        self.states = saving_memory(self.state, mesh().layout)
        self.store = _store(self.work, settings, self.state.model.device.type)
        saved = _resume(self.state, self.store)
        self.resumed_at = self.state.step
        self.guard = Guard(title, settings.skip_spikes, settings.nonfinite_steps)
        self.guard.recall(read_history(self.work / HISTORY))  # which the first rank has cut to the checkpoint
        with ExitStack() as stack:
            stack.enter_context(drain.heeded())
            journal = Journal(self.work, title, settings.steps, self.resumed_at, data.ranks().first)
            self.journal = stack.enter_context(journal)
            stack.enter_context(self.store)
            self._stack = stack.pop_all()
        self.states.send()
        for note in self.store.notes:
            journal.log.info(f"{title}: WARNING: {note}")
        if saved and saved.worlds[-1][1:] != self.store.world:
            (_, size, layout), (size_now, layout_now) = saved.worlds[-1], self.store.world
            then, now = (f" ({words})" if words else "" for words in (layout, layout_now))
            journal.log.info(
                f"{title}: WARNING: begun with {size} processes{then} and resumed at step {self.resumed_at} "
                f"with {size_now}{now}: the data keeps its order, the result will differ in its last bits"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for a checkpoint that is being written, and close the journal."""
        if error is None:
            self.states.bring()
        self._stack.__exit__(kind, error, trace)

    def run(self, source: Source, until: int | None = None, figures: Figures | None = None) -> None:
        """Make the steps up to `until` (None: all that remain), with a checkpoint wherever one is due.

        `figures`, if any, are added to the row of each of them.

        Raises UserError if the source's rows do not split evenly although they must, and, naming the step, if loss or
        gradient is not finite (`nonfinite_steps` times in a row); the last checkpoint stays. Raises Drained, after a
        checkpoint, if any rank was asked to end soon (engine/launch/drain.py); another attempt does the other steps.
        """
        settings, state = self.settings, self.state
        require_even(source, settings.micro_batches, mesh().rows, self.title)
        while state.step < (settings.steps if until is None else until):
            must_end = self._step(source, figures or {})
            self.store.check()
            last, leaving = state.step == settings.steps, must_end and state.step % settings.resumable_every == 0
            if state.step % settings.checkpoint_every == 0 or last or leaving:
                self.journal.sync()
                with self.states.here():
                    _checkpoint(state, self.store)
            if leaving and not last:
                self.store.wait()
                # The first rank that leaves makes torchrun stop the others, so wait until all have written.
                data.from_first(None)
                self.journal.log.info(f"{self.title}: asked to end soon: left a checkpoint after step {state.step}")
                raise drain.Drained

    def _step(self, source: Source, figures: Figures) -> bool:
        """Make one step and write its row; return whether any rank was asked to end soon."""
        state, step, settings = self.state, self.state.step, self.settings
        rows = mesh().rows
        batch = source.rows(step, rows)
        state.model.train()
        lr = self.schedule.lr(step + 1)
        state.optimizer.set_lr(lr)
        row: Figures = {"step": step + 1, "lr": lr}
        parts = pieces(settings.micro_batches, rows.size)
        row |= backward(state, batch, self.objective, settings.dtype, parts, settings.grad_clip)
        must_end = bool(row.pop(ASKED) > 0)
        verdict = self.guard.judge(row)
        if verdict.note:
            self.journal.log.info(verdict.note)
        with_heads = (step + 1) % settings.heads_every == 0
        with self.states.here():
            row |= move(state, verdict.take, with_heads, self.bias_rate_at(step) if self.bias_rate_at else 0.0)
        row |= figures
        state.step += 1
        if self.after_step is not None:
            self.after_step(state.step, row)
        self.journal.write(row, tokens_of(batch) * rows.size)
        return must_end

    def finish(self) -> Path:
        """Write the summary of the finished run and return the history file; the model is left in evaluation mode."""
        _finish(self.work, self.settings.steps, self.store, self.resumed_at)
        self.state.model.eval()
        return self.work / HISTORY


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
    place = mesh()
    numerics = fingerprint(settings.threads, settings.dtype, device, fp8_storage=place.layout.fp8_storage)
    return CheckpointStore(work / CHECKPOINTS, work / HISTORY, numerics, place.grid, close_is_enough(), place.layout)


def _resume(state: TrainState, store: CheckpointStore) -> Saved | None:
    """Load the latest checkpoint, if any."""
    saved = store.latest()
    if saved:
        store.load(saved, state)
    require_equal(state.tensors(), state.placement, "at the start")
    return saved


def _checkpoint(state: TrainState, store: CheckpointStore) -> None:
    """Begin to write a checkpoint after checking that the ranks agree on the state."""
    require_equal(state.tensors(), state.placement, f"after step {state.step}")
    store.save(state)


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
