"""The loss of a step of reinforcement learning: K2's objective over the families of rewards, and the PTX loss.

It reads nothing but the batch and the model, so a batch can be trained on in any process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.model.model import K2Model
from engine.rollout.teacher import Turns, completion_logprobs
from engine.training.batches import Batch
from engine.training.guard import EMPTY
from engine.training.padded import group_loss, kinds_of, no_loss
from nodes.rl.objective import squared_objective
from nodes.rl.rollouts import Minibatch


@dataclass(frozen=True)
class PolicyLoss:
    """The sum of each family's objective by its weight, plus the PTX loss by its own; a batch may lack any of them.

    A batch without a response to learn from has no PTX either, so it is {}: the step is `empty`. With `narrow` the
    trainer computes in another type than the sampler, and the figures show the gap between them.
    """

    weights: Mapping[str, float]
    tau: float
    ptx_weight: float
    narrow: bool

    def __call__(self, model: K2Model, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of a batch, and figures for the history."""
        figures: dict[str, Any] = {EMPTY: float(not batch), "loss_ptx": 0.0}
        loss = no_loss(model)
        for family, weight in self.weights.items():
            objective, of_family = self._objective(model, batch, family)
            loss = loss + weight * objective
            figures |= named(family, of_family)
        if not kinds_of(batch):
            return loss, figures
        ptx, by_kind = group_loss(model, batch, lambda _: 1.0)
        return loss + self.ptx_weight * ptx, {**figures, "loss_ptx": ptx, **by_kind}

    def _objective(self, model: K2Model, batch: Batch, family: str) -> tuple[Tensor, dict[str, Any]]:
        """Return the objective on this rank's share of a family's responses (zero if empty), and figures."""
        part = Minibatch.of(batch, family) if f"{family}/counts" in batch else None
        if part is None or not len(part.counts_M):
            gap = {"sampler_gap": 0.0} if self.narrow else {}
            return no_loss(model), {"objective": 0.0, "kl": 0.0, "ratio_max": 0.0, **gap}
        logprobs_M, old_M = whole_responses(model, part, completion_logprobs), part.old_logprobs_M
        objective = squared_objective(logprobs_M, old_M, part.advantages_M, part.counts_M, self.tau, total=part.total)
        ratio_M = (logprobs_M - old_M).detach()
        return objective, {
            "objective": objective,
            # Schulman's k3 estimate of KL(pi_old || pi), never negative: responses came from the old policy.
            "kl": (part.counts_M / part.live * (ratio_M.exp() - 1 - ratio_M)).sum(),
            "ratio_max": ratio_M.abs().max(),
            # The difference between the sampling policy in the trainer's narrow type and in the sampler's.
            **({"sampler_gap": (old_M - part.drawn_logprobs_M).abs().mean()} if self.narrow else {}),
        }


def whole_responses(model: K2Model, part: Minibatch, logprobs: Callable[[K2Model, Turns], Tensor]) -> Tensor:
    """Return the log-probability of each whole response, (M,): the sum of what `logprobs` gives for its turns."""
    turns_T = logprobs(model, part.turns)
    return turns_T.new_zeros(len(part.counts_M)).index_add(0, part.response_T, turns_T)


def named(family: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a family's figures with its name as prefix; those of the sums have none."""
    return {name if family == "sums" else f"{family}_{name}": value for name, value in figures.items()}
