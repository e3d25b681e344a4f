"""Gradients over the ranks of a mesh: their sums, their total norm, and clipping.

Each rank's gradients are those of its own rows. Whatever is no routed expert is summed over the replicas. An expert has
seen the rows of all ranks along ep, so its gradient is summed over dp alone.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.optim import foreach
from engine.parallel import data
from engine.parallel.mesh import mesh
from engine.parallel.placement import is_expert
from engine.parallel.traffic import SUM, sent


class Gradients(Protocol):
    """The gradients of this rank's part of a model between the last backward and the optimizer's step."""

    def reduce_(self) -> None:
        """Sum the gradients over the ranks, in place."""
        ...

    def norm(self) -> Tensor:
        """Return the norm of the summed gradients of the whole model, each parameter counted once; a 0-d tensor."""
        ...

    def clip_(self, factor: Tensor) -> None:
        """Multiply all gradients by `factor`, a 0-d tensor."""
        ...


class SummedGradients:
    """The gradients of a model whose ranks each take the whole step: every replica has the same sums."""

    def __init__(self, model: nn.Module) -> None:
        self.named = dict(model.named_parameters())

    def reduce_(self) -> None:
        """Sum the gradients over the ranks; a parameter that only some ranks have a gradient of is zero on others."""
        place = mesh()
        if place.grid.ep == 1:
            _sum_(list(self.named.values()), place.replicas)
        else:
            _sum_(self._parameters(experts=False), place.replicas)
            _sum_(self._parameters(experts=True), place.group("dp"))

    def norm(self) -> Tensor:
        """Return the norm of the whole model's gradient, the same bits on all ranks.

        One sum over all ranks makes it: sums over groups may differ between them in their last bits, and replicas that
        clip by other factors drift apart.
        """
        place = mesh()
        if not place.cut:
            return torch.nn.utils.get_total_norm(_gradients(list(self.named.values())))
        dense, experts = (self._square(experts) for experts in (False, True))
        square = (dense / place.grid.ep + experts) / place.grid.dp  # each rank's share of what several ranks have
        data.sum_([square])
        return square.sqrt()

    def clip_(self, factor: Tensor) -> None:
        """Multiply all gradients by `factor`."""
        foreach.mul_(_gradients(list(self.named.values())), factor)

    def _parameters(self, experts: bool) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named.items() if is_expert(name) == experts]

    def _square(self, experts: bool) -> Tensor:
        """Return the square of the norm of the experts' gradients, or of all others', in fp64."""
        own, like = _gradients(self._parameters(experts)), next(iter(self.named.values()))
        norm = torch.nn.utils.get_total_norm(own) if own else torch.zeros((), device=like.device)
        return norm.double().square()


def _sum_(parameters: list[nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Sum gradients over the ranks of a group, and count their bytes."""
    data.sum_gradients_(parameters, group)
    if (ranks := data.size_of(group)) > 1:
        total = sum(gradient.nbytes for gradient in _gradients(parameters))
        sent(SUM, total, round(2 * total * (ranks - 1) / ranks))


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
