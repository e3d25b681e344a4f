"""Train the policy: sample, take a few steps of K2's objective with PTX, and repeat.

An iteration is an outer loop around the training loop's steps. Everything depends only on the step and the model before
it, and training is only ever left between iterations, so resume is exact: after a kill, an iteration's responses are
drawn again, and its files (rollouts, candidates) are written again with the same content.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from engine.keyed import key
from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.data import Ranks
from engine.parallel.mesh import mesh
from engine.rollout.rows import reference_rows
from engine.rollout.teacher import reference_logprobs
from engine.training.batches import Batch
from engine.training.examples import Encoded
from engine.training.language import make_optimizer
from engine.training.loop import LoopSettings, Training
from engine.training.natural import NaturalText
from engine.training.numerics import autocast
from engine.training.sources import Examples
from engine.training.state import TrainState
from nodes.rl.candidates import Candidates
from nodes.rl.loss import PolicyLoss, named, of_responses, whole_responses
from nodes.rl.rewards import Family
from nodes.rl.rollouts import Minibatch, collect
from nodes.rl.schema import Parameters
from nodes.rl.tables import forget_rollouts, write_rollouts

SAMPLER_DTYPE = "float32"
"""The type in which responses are sampled, whatever the trainer's type: sampling runs outside of autocast."""


@dataclass(frozen=True)
class Iteration:
    """The source of an iteration's steps: each takes the next of this rank's minibatches, and a PTX batch beside it.

    `minibatches` are packed, all families in one; {} is one from which there is nothing to learn.
    """

    minibatches: Sequence[Batch]
    inner_steps: int
    ptx: Examples
    rows_per_step: int | None = None

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return what a step trains on; {} if there is no response to learn from, since it is then skipped."""
        responses = self.minibatches[step % self.inner_steps % len(self.minibatches)]
        return {**responses, **self.ptx.rows(step, ranks)} if responses else {}


class PolicyTraining:
    """One run: the policy, the families of rewards that it is trained on, and what is mixed into its batches."""

    def __init__(
        self,
        model: K2Model,
        families: Sequence[Family],
        p: Parameters,
        *,
        ptx: Encoded,
        natural: NaturalText,
        work: Path,
    ) -> None:
        self.model, self.families, self.p = model, families, p
        self.work = data.from_first(work)  # the first rank's path, which all ranks use so that any of them can resume
        self.ptx = Examples(ptx, p.ptx.examples if p.ptx.weight > 0 else {}, key(p.seed, "ptx"), natural)
        self.optimizer = make_optimizer(model, p.learning_rate, p.optimizer)
        self.narrow = p.dtype != SAMPLER_DTYPE
        weights = {family.name: family.weight for family in families}
        self.loss = PolicyLoss(weights, p.tau, p.ptx.weight, self.narrow)
        self.candidates = Candidates(model, families, p, self.work / "candidates")

    def run(self) -> Path:
        """Train to the end and judge the last policy; return the history file, one row per step."""
        p, state = self.p, TrainState(self.model, self.optimizer)
        settings = LoopSettings.of(
            p.optimizer,
            steps=p.steps,
            checkpoint_every=p.checkpoint_every * p.inner_steps,
            resumable_every=p.inner_steps,
            threads=p.threads,
            dtype=p.dtype,
            heads_every=p.steps + 1,  # never, because a skipped step has no per-head figures
        )
        training = Training(state, self.loss, p.schedule, settings, self.work, "rl")
        with training:
            assert state.step % p.inner_steps == 0, "a resume point must be between iterations"
            begin = state.step // p.inner_steps
            self._forget(begin)
            for iteration in range(begin, p.iterations):
                self.candidates.consider(iteration)
                source, figures = self.sample(iteration)
                training.run(source, (iteration + 1) * p.inner_steps, figures)
        history = training.finish()
        self.candidates.consider(p.iterations, last=True)
        return history

    def _forget(self, iteration: int) -> None:
        """Remove what earlier attempts left of iterations that are not in the state: it is made again."""
        if data.ranks().first:
            forget_rollouts(self.work / "rollouts", iteration)
        self.candidates.forget_after(iteration)
        self.candidates.judge_again()

    def sample(self, iteration: int) -> tuple[Iteration, dict[str, float]]:
        """Draw an iteration's responses and write them to disk; return the source of its steps, and their figures."""
        rollouts = [collect(self.model, family, iteration, self.p) for family in self.families]
        rows = [row for drawn in rollouts for row in drawn.rows]
        if data.ranks().first:
            write_rollouts(rows, self.work / "rollouts", iteration)
        if self.p.reset_optimizer:
            self.optimizer.forget()
        batches: list[dict[str, Tensor]] = [{} for _ in range(self.p.minibatches)]
        figures: dict[str, float] = {}
        for family, drawn in zip(self.families, rollouts, strict=True):
            for batch, part in zip(batches, drawn.minibatches, strict=True):
                if part is not None:
                    batch.update(self._with_old(part).packed(family.name))
            figures |= {"temperature": drawn.temperature} | named(family.name, drawn.figures)
        return Iteration(batches, self.p.inner_steps, self.ptx), figures

    def _with_old(self, part: Minibatch) -> Minibatch:
        """Return a minibatch with the log-probabilities under the sampling policy; call it before the weights move.

        Old and new log-probabilities must come from the same forward, or their ratio shows rounding: in bf16 the
        trainer's differ from the sampler's by hundredths of a nat per response, ten times what a step changes. In fp32
        they agree to 1e-5, and the sampler's are used.
        """
        if not self.narrow:
            return part
        part = part.to(self.model.device)
        self.model.train()
        if mesh().grid.pp > 1:  # the steps read plain rows, too
            return replace(
                part, old_logprobs_M=of_responses(part, reference_rows(self.model, part.turns, self.p.dtype))
            )
        with autocast(self.p.dtype, self.model.device.type):
            return replace(part, old_logprobs_M=whole_responses(self.model, part, reference_logprobs))
