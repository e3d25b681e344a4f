"""Count experts that see no token: their weights only decay, and no other figure shows it.

Shapes: E experts of a stack.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.host import to_host

IDLE_STEPS = 50
"""The number of steps in a row without a token from which an expert counts as idle."""


class IdleExperts:
    """Steps in a row with a zero gradient for every expert, by the first stacked (3-D) weight of each module."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        stacks: dict[str, str] = {}
        for name, parameter in named.items():
            if parameter.ndim == 3:
                stacks.setdefault(name.rpartition(".")[0], name)
        self.idle_E = {
            name: torch.zeros(named[name].shape[0], dtype=torch.int64, device=named[name].device)
            for name in stacks.values()
        }

    @torch.no_grad()
    def count(self, gradients: Mapping[str, Tensor]) -> int:
        """Update the counts from this step's gradients; return the number of idle experts."""
        for name, steps_E in self.idle_E.items():
            steps_E.add_(1)
            if name in gradients:
                steps_E.mul_(torch.linalg.vector_norm(gradients[name], dim=(1, 2)) == 0)
        return sum(map(int, to_host(*((idle_E >= IDLE_STEPS).sum() for idle_E in self.idle_E.values()))))
