"""The layout of an attention's per-head query and key weights, which QK-Clip needs.

Shapes: H heads.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from engine.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Rows of a projection that a clipped head scales by γ^`power`: `count` rows from `first` on in each head.

    Head h has the `per_head` rows of `weight` from `start` + h·`per_head` on; `start` is for fused projections. A bias
    scales with its rows. The powers of a query's and its key's rows add up to 1, so that the logit shrinks by γ.
    """

    weight: nn.Parameter
    per_head: int
    first: int
    count: int
    power: float
    bias: nn.Parameter | None = None
    start: int = 0

    def of(self, tensor: Tensor, heads: int) -> Tensor:
        """Return the view (H, count, …) of these rows in the weight, its bias, or a copy of either."""
        owned: Tensor = tensor[self.start : self.start + heads * self.per_head].unflatten(0, (heads, self.per_head))
        return owned[:, self.first : self.first + self.count]


@runtime_checkable
class ClippedAttention(Protocol):
    """An attention layer that QK-Clip can clip.

    `max_logit_H` is each head's largest softmax input since `reset_max_logit`, signed, -inf if there was none.
    """

    max_logit_H: Tensor

    def reset_max_logit(self) -> None:
        """Set `max_logit_H` to -inf."""
        ...

    def clip_rows(self) -> Sequence[Rows]:
        """Return the rows of the query and key weights that QK-Clip scales."""
        ...


def find_attentions(model: nn.Module) -> list[ClippedAttention]:
    """Return the modules of a model that follow the protocol, in order."""
    return [module for module in model.modules() if isinstance(module, ClippedAttention)]


def refuse_rows(attentions: Sequence[ClippedAttention], moved: Set[int]) -> None:
    """Raise UserError if a layer would clip a frozen weight, or one whose id is not in `moved`."""
    for layer, attention in enumerate(attentions):
        for rows in attention.clip_rows():
            for parameter in (rows.weight, rows.bias):
                if parameter is None or (parameter.requires_grad and id(parameter) in moved):
                    continue
                problem = f"layer {layer}: QK-Clip would scale a query or key weight of shape {tuple(parameter.shape)}"
                if not parameter.requires_grad:
                    raise UserError(f"{problem} that is frozen; unfreeze it, or give tau=0")
                raise UserError(
                    f"{problem} that is not both in the model and moved by the optimizer; where weights or projections "
                    "were replaced, make their recorder and the optimizer afresh"
                )
