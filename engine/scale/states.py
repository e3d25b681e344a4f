"""The bytes of weights, gradients and optimizer state on a rank: all that stays from step to step."""

from dataclasses import dataclass

from engine.model.activations import AUTOCAST, BF16, FP32, Types
from engine.model.config import K2Config
from engine.parallel.layout import Grid, Layout
from engine.scale.holdings import held, ownership, part_at


@dataclass(frozen=True)
class Precision:
    """Bytes of a number of each kind; momenta and moments are in fp32.

    `masters`: the optimizer moves fp32 copies of the weights, and not the weights themselves.
    """

    weight: int
    gradient: int
    masters: bool
    types: Types


BFLOAT16 = Precision(2, 4, True, BF16)
"""K2's: weights in BF16, with fp32 sums of gradients, masters and momenta (k2-facts 5)."""
MIXED = Precision(4, 4, False, AUTOCAST)
"""This trainer's under `dtype: bfloat16`: fp32 weights, which autocast rounds for its products."""
FLOAT32 = Precision(4, 4, False, FP32)
"""The laptop's: fp32 everywhere."""
BIAS = 4
"""Bytes of a router's bias, which stays in fp32."""


def precision(dtype: str, weights: str) -> Precision:
    """Return the bytes for a stage's `dtype` with `weights` in "float32" or "bfloat16"."""
    if dtype == "float32":
        return FLOAT32
    return BFLOAT16 if weights == "bfloat16" else MIXED


@dataclass(frozen=True)
class States:
    """Bytes on one rank, and the multiplications and additions of its Newton–Schulz iterations in a step.

    `replicated` is the part of weights and gradients that other replicas hold as well.
    """

    weights: int
    gradients: int
    optimizer: float
    replicated: int
    newton_schulz: float


def states(config: K2Config, layout: Layout, grid: Grid, kinds: Precision, *, zero: bool) -> list[States]:
    """Return the bytes of every rank, in the order of the ranks, with the optimizer's states shared out or not."""
    out: list[States] = []
    for stage in range(grid.pp):
        own = held(config, part_at(config, layout, grid, stage))
        trained = sum(weight.numbers for weight in own if weight.rule != "bias")
        biases = sum(weight.numbers for weight in own if weight.rule == "bias")
        experts = sum(weight.numbers for weight in own if weight.stacked)
        copied = (trained - experts if grid.dp * grid.ep > 1 else 0) + (experts if grid.dp > 1 else 0)
        loads = ownership(config, layout, grid, stage, masters=kinds.masters, zero=zero).loads
        out += [
            States(
                weights=trained * kinds.weight + biases * BIAS,
                gradients=trained * kinds.gradient,
                optimizer=load.state,
                replicated=copied * (kinds.weight + kinds.gradient),
                newton_schulz=load.work,
            )
            for load in (loads if zero else loads * (grid.dp * grid.ep))
        ]
    return out
