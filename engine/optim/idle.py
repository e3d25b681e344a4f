"""Experts that see no token: counted, since their weights only decay and nothing else tells of it.

Shapes: E experts of a stack.
"""

import torch
from torch import nn

IDLE_STEPS = 50
"""From how many steps in a row without a token an expert counts as idle."""


class IdleExperts:
    """Steps in a row with a vanishing gradient, for every expert: of each module's stacked (3-D) weights the first."""

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
        """Take up this step's gradients; how many experts have been idle for `IDLE_STEPS` or longer."""
        for name, parameter in self.stacks.items():
            idle_E = self.idle_E[name].add_(1)
            if parameter.grad is not None:
                idle_E *= torch.linalg.vector_norm(parameter.grad, dim=(1, 2)) == 0
        return int(sum((idle_E >= IDLE_STEPS).sum() for idle_E in self.idle_E.values()))
