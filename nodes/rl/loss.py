"""The loss of a step of reinforcement learning: K2's objective over the families of rewards, and the PTX loss.

It reads nothing but the batch and the model, so a batch can be trained on in any process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.device import device
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.rollout.rows import plain_rows, row_logprobs
from engine.rollout.teacher import Turns, completion_logprobs
from engine.training.batches import Batch
from engine.training.guard import EMPTY
from engine.training.padded import GroupLoss, group_loss, kinds_of, no_loss
from engine.training.readings import Figures, Reading, with_figures
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

    def readings(self, batch: Batch) -> list[Reading]:
        """Return a reading for each family, whose turns are plain rows, and for each kind of PTX text."""
        families = [self._reading(batch, family, weight) for family, weight in self.weights.items()]
        kinds = [] if not kinds_of(batch) else GroupLoss(lambda _: 1.0).readings(batch)
        first = with_figures(families[0], {EMPTY: float(not batch), "loss_ptx": 0.0})
        return [first, *families[1:], *map(self._ptx, kinds)]

    def _reading(self, batch: Batch, family: str, weight: float) -> Reading:
        """Return the reading of this rank's share of a family's responses; of none if there is none."""
        part = _part(batch, family)
        nothing = torch.zeros(0, 0, dtype=torch.int64, device=device())
        ids, valid = (nothing, nothing.bool()) if part is None else plain_rows(part.turns)

        def loss(head: Linear, hidden_TSD: Tensor) -> tuple[Tensor, Figures]:
            if part is None:
                return 0.0 * hidden_TSD.sum(), named(family, self._figures(None, None, 0.0))
            logprobs_M = of_responses(part, row_logprobs(head, hidden_TSD, part.turns))
            objective = self._of(part, logprobs_M)
            return weight * objective, named(family, self._figures(part, logprobs_M, objective))

        return Reading(ids, valid, loss)

    def _ptx(self, reading: Reading) -> Reading:
        """Return a reading of PTX text with the weight of PTX."""

        def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
            value, figures = reading.loss(head, hidden_BTD)
            return self.ptx_weight * value, {"loss_ptx": value, **figures}

        return replace(reading, loss=loss)

    def _objective(self, model: K2Model, batch: Batch, family: str) -> tuple[Tensor, dict[str, Any]]:
        """Return the objective on this rank's share of a family's responses (zero if empty), and figures."""
        part = _part(batch, family)
        if part is None:
            return no_loss(model), self._figures(None, None, 0.0)
        logprobs_M = whole_responses(model, part, completion_logprobs)
        objective = self._of(part, logprobs_M)
        return objective, self._figures(part, logprobs_M, objective)

    def _of(self, part: Minibatch, logprobs_M: Tensor) -> Tensor:
        """Return K2's objective on responses."""
        return squared_objective(
            logprobs_M, part.old_logprobs_M, part.advantages_M, part.counts_M, self.tau, total=part.total
        )

    def _figures(
        self, part: Minibatch | None, logprobs_M: Tensor | None, objective: Tensor | float
    ) -> dict[str, float | Tensor]:
        """Return a family's figures for the history."""
        if part is None or logprobs_M is None:
            gap: dict[str, float | Tensor] = {"sampler_gap": 0.0} if self.narrow else {}
            return {"objective": objective, "kl": 0.0, "ratio_max": 0.0, **gap}
        old_M = part.old_logprobs_M
        ratio_M, share_M = (logprobs_M - old_M).detach(), part.counts_M / part.live
        return {
            "objective": objective,
            # Schulman's k3 estimate of KL(pi_old || pi), never negative: responses came from the old policy.
            "kl": (share_M * (ratio_M.exp() - 1 - ratio_M)).sum(),
            "ratio_max": ratio_M.abs().max(),
            # The difference between the sampling policy in the trainer's narrow type and in the sampler's.
            **({"sampler_gap": (share_M * (old_M - part.drawn_logprobs_M).abs()).sum()} if self.narrow else {}),
        }


def _part(batch: Batch, family: str) -> Minibatch | None:
    """Return this rank's share of a family's responses in a batch, None if it has none."""
    part = Minibatch.of(batch, family) if f"{family}/counts" in batch else None
    return part if part is not None and len(part.counts_M) else None


def whole_responses(model: K2Model, part: Minibatch, logprobs: Callable[[K2Model, Turns], Tensor]) -> Tensor:
    """Return the log-probability of each whole response, (M,): the sum of what `logprobs` gives for its turns."""
    return of_responses(part, logprobs(model, part.turns))


def of_responses(part: Minibatch, turns_T: Tensor) -> Tensor:
    """Return what each response has, (M,), from what its turns have: their sum."""
    return turns_T.new_zeros(len(part.counts_M)).index_add(0, part.response_T, turns_T)


def named(family: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a family's figures with its name as prefix; those of the sums have none."""
    return {name if family == "sums" else f"{family}_{name}": value for name, value in figures.items()}
