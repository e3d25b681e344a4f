"""What is judged of each step before the optimizer moves: is the loss a spike, are loss and gradient finite.

All that the guard remembers stands in the history, so a resumed run judges as an uninterrupted one.
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
"""Standard deviations in one median absolute deviation, of a normal distribution."""

JUDGED = ("loss", "grad_norm")
EMPTY = "empty"
"""Figure of a step that had nothing to learn from: its loss says nothing about those of others."""


@dataclass(frozen=True)
class Verdict:
    """Whether the optimizer takes the step, and what the watcher is told, if anything."""

    take: bool
    note: str | None = None


class Guard:
    """Judges the steps of one run, named `title` in what it says.

    A spike is a loss over median + 6·1.4826·MAD of the last 50 finite losses; it is marked in the row, and skipped only
    with `skip_spikes`. Without 50 losses, or where they do not spread at all, nothing is called a spike; the losses of
    `empty` steps do not count among them. A step whose loss or gradient is not finite is marked as a spike too and
    always skipped, and the `nonfinite_steps`-th in a row stops the run.
    """

    def __init__(self, title: str, skip_spikes: bool, nonfinite_steps: int) -> None:
        self.title, self.skip_spikes, self.nonfinite_steps = title, skip_spikes, nonfinite_steps
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.nonfinite = 0

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Remember the steps of a history."""
        for row in rows:
            self._remember(row)

    def judge(self, row: dict[str, Any]) -> Verdict:
        """Mark `row` with `spike` (0 or 1) and, where loss or gradient is no number, `nonfinite`; what is to be done.

        Raises UserError at the step that is one non-finite too many.
        """
        limit = self.limit()
        bad = next((name for name in JUDGED if not math.isfinite(row[name])), None)
        spike = bad is None and row["loss"] > limit
        row["spike"] = float(spike or bad is not None)
        if bad is not None:
            row["nonfinite"] = 1.0
        self._remember(row)
        if bad is None and not spike:
            return Verdict(True)
        what = f"{bad} is {row[bad]}" if bad else f"loss {row['loss']:.4g} is a spike (over {limit:.4g})"
        said = f"{self.title}: {what} at step {row['step']}"
        if self.nonfinite >= self.nonfinite_steps:
            count = f", {self.nonfinite} such steps in a row" if self.nonfinite > 1 else ""
            raise UserError(f"{said}{count}; lower the learning rate, run again")
        take = spike and not self.skip_spikes
        return Verdict(take, said if take else f"{said}; the step is skipped")

    def limit(self) -> float:
        """The loss above which a step is a spike, from the last 50 finite losses; +inf where they say nothing."""
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
