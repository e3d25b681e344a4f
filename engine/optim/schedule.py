"""The learning rate over training: warm-up, stable, cosine decay, anneal (WSD; K2 recipe, k2-facts section 3)."""

import math
from dataclasses import dataclass, replace
from typing import Self

from engine.errors import UserError


@dataclass(frozen=True)
class WSD:
    """Rates at the ends of the phases, and the lengths of the phases in tokens.

    Warm-up rises linearly from 0 to `peak`; stable holds it; decay is a cosine from `peak` to `decayed`; the anneal
    goes linearly from `decayed` to `final`, which then stays. The paper states 2e-4 → 2e-5 → 7e-6, and not the shapes
    of warm-up and anneal. An anneal starts from `decayed` also where there is no decay, by a jump where `peak` differs
    (the stages' parameters refuse that). Where every step has the same number of tokens, lengths may as well be counted
    in steps.
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
        """Tokens of all phases."""
        return self.warmup + self.stable + self.decay + self.anneal

    def lr(self, tokens_seen: int) -> float:
        """The rate of the step that ends with `tokens_seen` tokens trained on: of that number alone, so resumable."""
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
        """The schedule of a run that leaves this one after `at` tokens and starts its decay there.

        Equal to this one up to `at`. `decay` and `anneal` give the branch phases of other lengths. Raises UserError
        where `at` is not in the stable phase.
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
"""Tokens of one of K2's steps."""
K2 = WSD(
    peak=2e-4,
    decayed=2e-5,
    final=7e-6,
    warmup=500 * K2_STEP,
    stable=10 * 10**12 - 500 * K2_STEP,
    decay=55 * 10**11,
    anneal=460 * 10**9,
)
"""The paper's: 10T tokens to the end of the stable phase, 5.5T of decay, 400B of anneal and 60B of long context."""
