"""The learning rate over training: warm-up, stable, cosine decay, anneal (WSD; K2 recipe, k2-facts section 3)."""

import math
from dataclasses import dataclass, replace
from typing import Self

from engine.errors import UserError


@dataclass(frozen=True)
class WSD:
    """The rates at the ends of the phases, and the lengths of the phases in tokens.

    Warm-up rises linearly from 0 to `peak`; stable keeps it; decay is a cosine from `peak` to `decayed`; the anneal
    falls linearly from `decayed` to `final`, which then stays. The paper states 2e-4 → 2e-5 → 7e-6, but not the shapes
    of warm-up and anneal. The anneal starts from `decayed` even without a decay, with a jump if `peak` differs (the
    stages' parameters refuse that). If every step has the same number of tokens, lengths may be counted in steps
    instead.
    """

    peak: float
    decayed: float
    final: float
    warmup: int
    stable: int
    decay: int
    anneal: int

    @property
    def total(self) -> int:
        """The tokens of all phases."""
        return self.warmup + self.stable + self.decay + self.anneal

    def lr(self, tokens_seen: int) -> float:
        """Return the rate of the step that ends after `tokens_seen` tokens; it depends on that number alone."""
        at = tokens_seen
        if at < self.warmup:
            return self.peak * at / self.warmup
        at -= self.warmup + self.stable
        if at <= 0:
            return self.peak
        if at < self.decay:
            return self.decayed + (self.peak - self.decayed) * 0.5 * (1 + math.cos(math.pi * at / self.decay))
        at -= self.decay
        start = self.decayed if self.decay or self.anneal else self.peak
        return start + (self.final - start) * min(at / self.anneal, 1.0) if self.anneal else start

    def branch(self, at: int, decay: int | None = None, anneal: int | None = None) -> Self:
        """Return the schedule of a run that leaves this one after `at` tokens and starts its decay there.

        It equals this one up to `at`. `decay` and `anneal` give the branch phases of other lengths. Raises UserError if
        `at` is not in the stable phase.
        """
        if not self.warmup <= at <= self.warmup + self.stable:
            raise UserError(
                f"schedule: a branch at {at:,} tokens does not start in the stable phase, which lasts from "
                f"{self.warmup:,} to {self.warmup + self.stable:,}; choose a checkpoint from there"
            )
        return replace(
            self,
            stable=at - self.warmup,
            decay=self.decay if decay is None else decay,
            anneal=self.anneal if anneal is None else anneal,
        )


K2_STEP = 2**26
"""The tokens of one step of K2."""
K2 = WSD(
    peak=2e-4,
    decayed=2e-5,
    final=7e-6,
    warmup=500 * K2_STEP,
    stable=10 * 10**12 - 500 * K2_STEP,
    decay=55 * 10**11,
    anneal=460 * 10**9,
)
"""The paper's schedule: 10T tokens up to the stable phase's end, 5.5T decay, 400B anneal and 60B long context."""
