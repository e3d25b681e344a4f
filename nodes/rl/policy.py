"""Train the policy: sample, take a few steps of K2's objective with PTX, and repeat.

Everything depends only on the step and the model before it, so the loop's resume is exact: after a kill, an iteration's
responses are drawn again, and its files (rollouts, candidates) are written again with the same content.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.artifacts.files import digest_bytes
from engine.keyed import key
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.parallel import data
from engine.parallel.data import Ranks
from engine.rollout.teacher import completion_logprobs, reference_logprobs
from engine.training.batches import Batch
from engine.training.examples import Encoded
from engine.training.guard import EMPTY
from engine.training.language import make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.natural import NaturalText
from engine.training.padded import group_loss, no_loss
from engine.training.sources import Examples
from engine.training.state import TrainState
from nodes.rl.candidates import Candidates
from nodes.rl.objective import squared_objective
from nodes.rl.rewards import Family
from nodes.rl.rollouts import Minibatch, Rollouts, collect
from nodes.rl.schema import Parameters
from nodes.rl.tables import write_rollouts

SAMPLER_DTYPE = "float32"
"""The type in which responses are sampled, whatever the trainer's type: sampling runs outside of autocast."""


class Skippable:
    """MuonClip for the training loop, with steps that can be skipped and a state that can be dropped.

    If no prompt is informative there is no gradient, yet momentum and weight decay would still move the weights.
    """

    def __init__(self, optimizer: MuonClip) -> None:
        self.optimizer, self.skip = optimizer, False
        self.set_lr, self.zero_grad = optimizer.set_lr, optimizer.zero_grad
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    def step(self) -> dict[str, float]:
        """Move the weights, unless this step is skipped."""
        if not self.skip:
            return self.optimizer.step()
        for attention in self.optimizer.attentions:
            attention.reset_max_logit()
        return {"skipped": 1.0, "max_logit": 0.0, "clipped_heads": 0.0}

    def forget(self) -> None:
        """Reset momenta and moments to their initial state."""
        for momentum in self.optimizer.momenta.values():
            momentum.zero_()
        self.optimizer.adamw.state.clear()


class PolicyTraining:
    """The callbacks of the training loop for one run."""

    rows_per_step = None

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
        self.optimizer = Skippable(make_optimizer(model, p.learning_rate, p.optimizer))
        self.candidates = Candidates(model, families, p, self.work / "candidates")
        self.drawn: tuple[int, list[Rollouts]] | None = None
        self.inner = 0  # step within the iteration
        self.old: list[dict[int, Tensor]] = []
        """For each family, the log-probabilities (M,) under the policy at the iteration's start, by minibatch."""

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return a step's PTX batch; its minibatches of responses, one per family, are in `minibatches` until the next.

        At the first step of an iteration, the policy is judged as a candidate and sampled from.
        """
        iteration, self.inner = divmod(step, self.p.inner_steps)
        if self.drawn is None or self.drawn[0] != iteration:
            assert self.inner == 0, "a resume point must be between iterations"
            self.candidates.consider(iteration)
            rollouts = [collect(self.model, family, iteration, self.p) for family in self.families]
            rows = [row for drawn in rollouts for row in drawn.rows]
            data.require_same(_digest(rows), f"the rollouts of iteration {iteration}")
            if data.ranks().first:
                write_rollouts(rows, self.work / "rollouts", iteration)
            self.drawn = (iteration, rollouts)
            if self.p.reset_optimizer:
                self.optimizer.forget()
        self.optimizer.skip = all(part.empty for part in self.minibatches)
        return self.ptx.rows(step, ranks) if self.p.ptx.weight > 0 and not self.optimizer.skip else {}

    @property
    def rollouts(self) -> list[Rollouts]:
        """The iteration's responses, by family."""
        assert self.drawn is not None, "nothing was drawn yet"
        return self.drawn[1]

    @property
    def minibatches(self) -> list[Minibatch]:
        """The responses of the step, by family."""
        return [drawn.minibatches[self.inner % self.p.minibatches] for drawn in self.rollouts]

    def loss(self, _model: K2Model, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return K2's objective over the families plus the weighted PTX loss, and figures for the history."""
        figures: dict[str, Any] = {EMPTY: float(self.optimizer.skip), "loss_ptx": 0.0}
        if self.inner == 0:
            self.old = [self._old_logprobs(drawn) for drawn in self.rollouts]
        objective = no_loss(self.model)
        for place, (family, drawn) in enumerate(zip(self.families, self.rollouts, strict=True)):
            own, of_family = self._objective(place)
            objective = objective + family.weight * own
            figures["temperature"] = drawn.temperature
            figures |= named(family.name, drawn.figures | of_family)
        if not batch:
            return objective, figures
        ptx, by_kind = group_loss(self.model, batch, lambda _: 1.0)
        return objective + self.p.ptx.weight * ptx, {**figures, "loss_ptx": ptx, **by_kind}

    @property
    def _narrow(self) -> bool:
        """Whether the trainer computes in another type than the sampler."""
        return self.p.dtype != SAMPLER_DTYPE

    def _objective(self, place: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the objective on this rank's share of a family's responses (zero if empty), and figures."""
        part, narrow, number = self.minibatches[place], self._narrow, self.inner % self.p.minibatches
        if not part.prompts:
            gap = {"sampler_gap": 0.0} if narrow else {}
            return no_loss(self.model), {"objective": 0.0, "kl": 0.0, "ratio_max": 0.0, **gap}
        logprobs_M = whole_responses(self.model, part, self.rollouts[place].temperature, completion_logprobs)
        old_M = self.old[place].setdefault(number, logprobs_M.detach())
        objective = squared_objective(logprobs_M, old_M, part.advantages_M, part.counts_M, self.p.tau, total=part.total)
        ratio_M = (logprobs_M - old_M).detach()
        return objective, {
            "objective": objective,
            # Schulman's k3 estimate of KL(pi_old || pi), never negative: responses came from the old policy.
            "kl": (part.counts_M / part.live * (ratio_M.exp() - 1 - ratio_M)).sum(),
            "ratio_max": ratio_M.abs().max(),
            # The difference between the sampling policy in the trainer's narrow type and in the sampler's.
            **({"sampler_gap": (old_M - part.drawn_logprobs_M).abs().mean()} if narrow else {}),
        }

    def _old_logprobs(self, drawn: Rollouts) -> dict[int, Tensor]:
        """Return the log-probabilities under the sampling policy, by minibatch; call it before the weights move.

        Old and new log-probabilities must come from the same forward, or their ratio shows rounding: in bf16 the
        trainer's differ from the sampler's by hundredths of a nat per response, ten times what a step changes. In fp32
        they agree to 1e-5, and the sampler's are used. In bf16 the step's own minibatch is left out: its new ones are
        its old ones.
        """
        parts = enumerate(drawn.minibatches)
        if not self._narrow:
            return {number: part.drawn_logprobs_M for number, part in parts}
        return {
            number: whole_responses(self.model, part, drawn.temperature, reference_logprobs)
            for number, part in parts
            if number != self.inner % self.p.minibatches
        }

    def run(self) -> Path:
        """Train to the end and judge the last policy; return the history file, one row per step."""
        p = self.p
        history = train_loop(
            TrainState(self.model, self.optimizer),
            self,
            self.loss,
            p.schedule,
            LoopSettings.of(
                p.optimizer,
                steps=p.steps,
                checkpoint_every=p.checkpoint_every * p.inner_steps,
                resumable_every=p.inner_steps,
                threads=p.threads,
                dtype=p.dtype,
                heads_every=p.steps + 1,  # never, because a skipped step has no per-head figures
            ),
            work=self.work,
            title="rl",
        )
        self.candidates.consider(p.iterations, last=True)
        return history


def whole_responses(model: K2Model, part: Minibatch, temperature: float, logprobs: Callable[..., Tensor]) -> Tensor:
    """Return the log-probability of each whole response, (M,): the sum of what `logprobs` gives for its turns."""
    turns_T = logprobs(model, part.prompts, part.which_T, part.completions, temperature)
    return turns_T.new_zeros(len(part.counts_M)).index_add(0, part.response_T, turns_T)


def named(family: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a family's figures with its name as prefix; those of the sums have none."""
    return {name if family == "sums" else f"{family}_{name}": value for name, value in figures.items()}


def _digest(rows: list[dict[str, Any]]) -> str:
    return digest_bytes(json.dumps(rows).encode())
