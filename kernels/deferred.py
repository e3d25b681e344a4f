"""Backwards in two parts: first the gradients that others wait for, then those of large weights, for which nobody does.

A pipeline sends the gradient of a stage's input on before it computes those of the stage's weights. torch's own split
goes through the graph twice, so a function written by hand would compute both parts twice, and what is recomputed would
be so twice. Here the function itself sets its weights' part aside. That is done for the weights of `kernels.linear` and
of `kernels.experts`, nearly all products; gains, the embedding, routers and the head are in the first part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Part = Callable[[], None]
_aside: list[list[Part]] = []
"""The gradients set aside since they were last taken, in a list of their own while `deferring` lasts."""


@contextmanager
def deferring() -> Iterator[None]:
    """Set weights' gradients aside in all backwards of the forwards within; `taken` returns them."""
    _aside.append([])
    try:
        yield
    finally:
        _aside.pop()


def defers(x: Tensor, *weights: Tensor) -> bool:
    """Return whether an op on `x` must set its weights' gradients aside."""
    return (
        bool(_aside)
        and torch.is_grad_enabled()
        and x.requires_grad
        and all(weight.is_leaf and weight.requires_grad for weight in weights)
    )


def add_gradient(weight: Tensor, gradient: Callable[[], Tensor], rounded: torch.dtype) -> None:
    """Add a gradient, rounded to a type, to that of a leaf: when `taken`'s part is called, or at once outside."""

    def part() -> None:
        addend = gradient().to(rounded).to(weight.dtype)
        weight.grad = addend if weight.grad is None else weight.grad.add_(addend)

    if _aside:
        _aside[-1].append(part)
    else:
        part()


def taken() -> Part:
    """Return what adds the gradients set aside since the last call, in the order of the backwards, and lets them go."""
    if not _aside:
        raise RuntimeError("no gradients of weights are being set aside")
    parts, _aside[-1] = _aside[-1], []

    @torch.no_grad()
    def run() -> None:
        for part in parts:
            part()
        parts.clear()

    return run
