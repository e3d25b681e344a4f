"""Update many tensors with one call each: torch's multi-tensor kernels, which have no public name.

torch's own optimizers use these functions; they are torch 2.13.0's, and tests/engine/optim/test_foreach.py says which
one a later torch lacks. Each list holds one tensor for each tensor of the first list.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, rounded to the target's type: `torch._foreach_copy_` of torch 2.13.0."""
    torch._foreach_copy_(list(targets), list(sources))


def mul_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiply all tensors by `factor` in place: `torch._foreach_mul_` of torch 2.13.0."""
    torch._foreach_mul_(list(tensors), factor)


def add_(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float = 1) -> None:
    """Add `alpha` times the other tensors in place: `torch._foreach_add_` of torch 2.13.0."""
    torch._foreach_add_(list(tensors), list(others), alpha=alpha)


def add(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """Return the tensors plus `alpha` times the others: `torch._foreach_add` of torch 2.13.0."""
    return list(torch._foreach_add(list(tensors), list(others), alpha=alpha))
