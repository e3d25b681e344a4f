"""Muon's update for a set of weights: momentum, Newton–Schulz on equal shapes at once, decoupled decay.

Shapes: K matrices of one shape, n rows, m columns.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.optim import foreach
from engine.parallel.ownership import GATE_UP
from kernels.newton_schulz import STEPS, Coefficients, Plan, newton_schulz, plan

RMS_TARGET = 0.2
"""Root mean square of an update before the learning rate, as AdamW's is in practice (Moonlight, Table 8)."""


@dataclass(frozen=True)
class Orthogonaliser:
    """How updates are orthogonalised: Newton–Schulz steps, their type and coefficients; then 0.2·√max(n, m)."""

    steps: int = STEPS
    dtype: torch.dtype = torch.bfloat16
    coefficients: Coefficients = "jordan"
    rms_target: float = RMS_TARGET

    def plan(self, count: int, n: int, m: int, device: str) -> Plan:
        """Return the plan for `count` matrices of one shape."""
        return plan(count, min(n, m), max(n, m), self.dtype, device, self.steps)

    def scale(self, n: int, m: int) -> float:
        """Return the factor for an orthogonalised matrix."""
        return self.rms_target * math.sqrt(max(n, m))

    def __call__(self, update_Knm: Tensor, how: Plan) -> Tensor:
        """Return the orthogonalised update of each matrix, not yet scaled."""
        return newton_schulz(update_Knm, self.steps, self.dtype, self.coefficients, how)


@dataclass(frozen=True)
class Stack:
    """Views (K, n, m) of a weight, its momentum and its gradient."""

    weight: Tensor
    momentum: Tensor
    gradient: Tensor

    def split(self, size: int) -> Iterator["Stack"]:
        """Yield the stack in pieces of at most `size` matrices."""
        yield from map(Stack, self.weight.split(size), self.momentum.split(size), self.gradient.split(size))


def matrices(name: str, tensor: Tensor, heads: int | None = None) -> list[Tensor]:
    """Return views (K, n, m) of a weight as Muon's separate matrices: gate and up are two; `heads` divides rows."""
    if heads is not None:
        return [tensor.unflatten(0, (heads, -1))]
    stack = tensor if tensor.ndim == 3 else tensor[None]
    return list(stack.chunk(2, dim=-2)) if name.endswith(GATE_UP) else [stack]


@torch.no_grad()
def muon_(
    weights: Mapping[str, Tensor],
    momenta: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    orthogonalise: Orthogonaliser,
    *,
    lr: float,
    decay: float,
    mu: float,
    nesterov: bool = True,
    heads: Mapping[str, int] | None = None,
    counts: Mapping[tuple[int, int], int] | None = None,
) -> None:
    """Take one step in place: M ← μM + G; W ← W − lr·(0.2·√max(n,m)·NS(G + μM) + decay·W) (k2-facts 2.1, 2.2).

    Updates the weights that have a gradient. `heads` names weights that are treated head by head. `counts` is how many
    matrices of each shape the whole model has, where these are a part: an update's form does not depend on the part.
    """
    groups: dict[tuple[torch.Size, torch.device], list[Stack]] = defaultdict(list)
    for name, gradient in gradients.items():
        views = [matrices(name, t.detach(), (heads or {}).get(name)) for t in (weights[name], momenta[name], gradient)]
        for stack in map(Stack, *views):
            groups[stack.weight.shape[1:], stack.weight.device].append(stack)
    # A bundle's matrices stay in the cache from the momentum's update to the weight's.
    for ((n, m), device), stacks in groups.items():
        count = sum(len(stack.weight) for stack in stacks) if counts is None else counts[n, m]
        how = orthogonalise.plan(count, n, m, device.type)
        for bundle in _bundles(stacks, how.chunk):
            updates = _updates(bundle, mu, nesterov)
            moved = orthogonalise(torch.cat(updates) if len(updates) > 1 else updates[0], how)
            _move_(bundle, moved, 1 - lr * decay, lr * orthogonalise.scale(n, m))


def _bundles(stacks: list[Stack], chunk: int) -> Iterator[list[Stack]]:
    """Yield the same matrices in bundles of at most `chunk`, joining small stacks and cutting large ones."""
    bundle: list[Stack] = []
    for piece in (piece for stack in stacks for piece in stack.split(chunk)):
        if bundle and sum(len(other.weight) for other in bundle) + len(piece.weight) > chunk:
            yield bundle
            bundle = []
        bundle.append(piece)
    yield bundle


def _updates(bundle: list[Stack], mu: float, nesterov: bool) -> list[Tensor]:
    """Add the gradients to the momenta; return what is to be orthogonalised."""
    momenta, gradients = [stack.momentum for stack in bundle], [stack.gradient for stack in bundle]
    foreach.mul_(momenta, mu)
    foreach.add_(momenta, gradients)
    return foreach.add(gradients, momenta, alpha=mu) if nesterov else momenta


def _move_(bundle: list[Stack], moved_Knm: Tensor, keep: float, rate: float) -> None:
    """Compute W ← keep·W − rate·O."""
    weights = [stack.weight for stack in bundle]
    foreach.mul_(weights, keep)
    foreach.add_(weights, moved_Knm.split([len(weight) for weight in weights]), alpha=-rate)
