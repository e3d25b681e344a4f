"""Judge each step before the optimizer moves: is the loss a spike, are loss and gradient finite?

All that the guard remembers is in the history, so a resumed run judges as an uninterrupted one would.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine.errors import UserError

WINDOW = 50
DEVIATIONS = 6.0
SIGMA_PER_MAD = 1.4826
"""Standard deviations per median absolute deviation, for a normal distribution."""

JUDGED = ("loss", "grad_norm")
EMPTY = "empty"
"""The figure of a step that had nothing to learn from, whose loss is not comparable with others."""


@dataclass(frozen=True)
class StepVerdict:
    """Whether the optimizer takes the step, and a note for the user, if any."""

    take: bool
    note: str | None = None


class Guard:
    """Judges the steps of one run, which its messages call `title`.

    A spike is a loss over median + 6·1.4826·MAD of the last 50 finite losses; it is marked in the row, and skipped only
    with `skip_spikes`. With fewer than 50 losses, or if they do not spread at all, nothing is called a spike; the
    losses of `empty` steps are not among them. A step whose loss or gradient is not finite is marked as a spike too and
    always skipped, and the `nonfinite_steps`-th in a row stops the run. An `empty` step is skipped without a word:
    it has no gradient, yet momentum and weight decay would move the weights.
    """

    def __init__(self, title: str, skip_spikes: bool, nonfinite_steps: int) -> None:
        self.title, self.skip_spikes, self.nonfinite_steps = title, skip_spikes, nonfinite_steps
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.nonfinite = 0

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Remember the steps of a history."""
        for row in rows:
            self._remember(row)

    def judge(self, row: dict[str, Any]) -> StepVerdict:
        """Mark `row` with `spike` (0 or 1) and, if loss or gradient is not finite, `nonfinite`; return the verdict.

        Raises UserError if there are too many non-finite steps in a row.
        """
        limit = self.limit()
        bad = next((name for name in JUDGED if not math.isfinite(row[name])), None)
        spike = bad is None and not row.get(EMPTY) and row["loss"] > limit
        row["spike"] = float(spike or bad is not None)
        if bad is not None:
            row["nonfinite"] = 1.0
        self._remember(row)
        if bad is None and not spike:
            return StepVerdict(not row.get(EMPTY))
        problem = f"{bad} is {row[bad]}" if bad else f"loss {row['loss']:.4g} is a spike (over {limit:.4g})"
        note = f"{self.title}: {problem} at step {row['step']}"
        if self.nonfinite >= self.nonfinite_steps:
            count = f", {self.nonfinite} such steps in a row" if self.nonfinite > 1 else ""
            raise UserError(f"{note}{count}; lower the learning rate, run again")
        take = spike and not self.skip_spikes
        return StepVerdict(take, note if take else f"{note}; the step is skipped")

    def limit(self) -> float:
        """Return the loss above which a step is a spike, from the last 50 finite losses; +inf if they define none."""
        if len(self.losses) < WINDOW:
            return math.inf
        middle = median(self.losses)
        spread = median(abs(loss - middle) for loss in self.losses)
        return middle + DEVIATIONS * SIGMA_PER_MAD * spread if spread else math.inf

    def _remember(self, row: Mapping[str, Any]) -> None:
        if row.get("nonfinite"):
            self.nonfinite += 1
        elif not row.get(EMPTY):
            self.nonfinite = 0
            self.losses.append(row["loss"])
