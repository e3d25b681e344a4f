"""Count experts that see no token: their weights only decay, and no other figure shows it.

Shapes: E experts of a stack.
"""

import torch
from torch import nn

from kernels.host import to_host

IDLE_STEPS = 50
"""The number of steps in a row without a token from which an expert counts as idle."""


class IdleExperts:
    """Steps in a row with a zero gradient for every expert, by the first stacked (3-D) weight of each module."""

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        stacks: dict[str, str] = {}
        for name, parameter in named.items():
            if parameter.ndim == 3:
                stacks.setdefault(name.rpartition(".")[0], name)
        self.stacks = {name: named[name] for name in stacks.values()}
        self.idle_E = {
            name: torch.zeros(p.shape[0], dtype=torch.int64, device=p.device) for name, p in self.stacks.items()
        }

    @torch.no_grad()
    def count(self) -> int:
        """Update the counts from this step's gradients; return the number of idle experts."""
        for name, parameter in self.stacks.items():
            idle_E = self.idle_E[name].add_(1)
            if parameter.grad is not None:
                idle_E *= torch.linalg.vector_norm(parameter.grad, dim=(1, 2)) == 0
        return sum(map(int, to_host(*((idle_E >= IDLE_STEPS).sum() for idle_E in self.idle_E.values()))))
