"""The learning rate over training: phases of four shapes, one after the other (K2's recipe, k2-facts section 3).

K2's WSD is one value of it: warm-up, constant, cosine decay, linear anneal. Light to import, for the stages' schemas.
"""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Shape = Literal["warmup", "constant", "cosine", "linear"]


class Phase(BaseModel):
    """A part of a schedule: its shape, its length in steps (or in tokens, as all lengths then), the rate at its end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Shape
    length: int = Field(ge=1)
    end: float | None = Field(default=None, ge=0, description="the rate at its end; a constant phase has none")

    @model_validator(mode="after")
    def _has_its_rate(self) -> Self:
        if (self.end is None) != (self.shape == "constant"):
            raise ValueError(
                f"a {self.shape} phase {'needs the rate at its end: give end' if self.end is None else 'has no end'}"
            )
        return self

    def rate(self, at: int, start: float) -> float:
        """Return the rate after `at` of its `length` steps, if it was `start` before; a warm-up rises from 0."""
        if self.end is None:
            return start
        if self.shape == "warmup":
            return self.end * at / self.length if at < self.length else self.end
        if self.shape == "cosine":
            return self.end + (start - self.end) * 0.5 * (1 + math.cos(math.pi * at / self.length))
        return start + (self.end - start) * (at / self.length)


class Schedule(BaseModel):
    """The phases of a training, in order.

    A warm-up can only be the first phase. Without one, the rate before the first phase is `start`. After the warm-up
    no rate rises, and after the last phase it stays. `steps`, where it is given, is what the lengths must add up to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    phases: tuple[Phase, ...]
    start: float = Field(default=0.0, ge=0)
    steps: int | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if not self.phases:
            raise ValueError("there is no phase, so no step; give phases at least one")
        if self.steps not in (None, self.total):
            raise ValueError(
                f"the phases add up to {self.total:,} steps, but steps is {self.steps:,}; correct steps or a phase's "
                "length"
            )
        rate = self.start
        for number, phase in enumerate(self.phases):
            if phase.shape == "warmup" and (number or self.start):
                raise ValueError(f"phases.{number}: a warm-up rises from 0; put it first, and leave start out")
            if phase.shape != "warmup" and not rate:
                raise ValueError(f"phases.{number} begins at a rate of 0; give start, or a warm-up before it")
            end = rate if phase.end is None else phase.end
            if end > rate and phase.shape != "warmup":
                raise ValueError(f"the rates must fall: phases.{number} ends at {end:g}, above {rate:g}; lower its end")
            rate = end
        return self

    @classmethod
    def warmed_up(cls, peak: float, warmup: int, *rest: tuple[Shape, int, float | None]) -> Self:
        """Return `warmup` steps to `peak`, then phases (shape, length, end); those without a step are left out."""
        parts: list[tuple[Shape, int, float | None]] = [("warmup", warmup, peak), *rest]
        phases = tuple(Phase(shape=shape, length=length, end=end) for shape, length, end in parts if length)
        return cls(phases=phases, start=0.0 if warmup else peak)

    @property
    def total(self) -> int:
        """The lengths of all phases."""
        return sum(phase.length for phase in self.phases)

    @property
    def peak(self) -> float:
        """The highest rate."""
        return max(self.start, self.phases[0].end or 0.0)

    def begin(self, shape: Shape) -> int:
        """Return how many steps come before the first phase of a shape; the total if there is none."""
        before = 0
        for phase in self.phases:
            if phase.shape == shape:
                break
            before += phase.length
        return before

    def lr(self, seen: int) -> float:
        """Return the rate of the step that ends after `seen` steps (or tokens), which depends on that number alone."""
        rate, left = self.start, seen
        for phase in self.phases:
            if left <= phase.length:
                return phase.rate(left, rate)
            left -= phase.length
            rate = phase.rate(phase.length, rate)
        return rate


K2_STEP = 2**26
"""The tokens of one step of K2."""
K2 = Schedule.warmed_up(
    2e-4,
    500 * K2_STEP,
    ("constant", 10 * 10**12 - 500 * K2_STEP, None),
    ("cosine", 55 * 10**11, 2e-5),
    ("linear", 460 * 10**9, 7e-6),
)
"""The paper's schedule: 10T tokens up to the stable phase's end, 5.5T decay, 400B anneal and 60B long context.

The paper states 2e-4 → 2e-5 → 7e-6, but not the shapes of warm-up and anneal.
"""
