"""Equally many forwards on all ranks that exchange the rows of experts, however uneven their shares of a batch are.

A forward of a model whose experts are cut over ranks needs all of these ranks (engine/parallel/exchange.py). A loss,
however, makes no forward for a kind of example of which its rank has none, and more than one for some. So every forward
begins with a roll call. A rank that is done joins the others' forwards until all are done: on one token of padding,
which neither the largest logits nor the experts' loads record, and whose gradient is zero. Backward passes match then
as well, because autograd goes through forwards in the reverse order of their calls.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from engine.model.model import K2Model
from engine.model.moe import MoE
from engine.parallel import data
from engine.parallel.mesh import mesh
from kernels.host import to_host

Given = TypeVar("Given")
Figures = TypeVar("Figures")
Forwards = Callable[[K2Model, Given], tuple[Tensor, Figures]]
"""A function of a model that runs any number of its forwards, each once through all layers, such as an objective."""


def evened(forwards: Forwards[Given, Figures]) -> Forwards[Given, Figures]:
    """Return the function, with as many forwards on every rank of an expert group as the busiest rank makes.

    Its tensor keeps its value, and depends on the added forwards with a gradient of zero. All ranks of the group must
    call it together, in the same mode and type. It is the function itself where experts are not cut.
    """
    if mesh().grid.ep == 1:
        return forwards

    def even(model: K2Model, given: Given) -> tuple[Tensor, Figures]:
        first = next((block.mlp for block in model.blocks if isinstance(block.mlp, MoE)), None)
        if first is None:
            return forwards(model, given)
        hook = first.register_forward_pre_hook(lambda *_: _announce(model))
        try:
            value, figures = forwards(model, given)
        finally:
            hook.remove()
        while int(to_host(_roll_call(model, busy=False))[0]):
            value = value + 0.0 * _idle_forward(model)
        return value, figures

    return even


def _announce(model: K2Model) -> None:
    """Tell the expert group that this rank is about to run a forward."""
    _roll_call(model, busy=True)


def _roll_call(model: K2Model, busy: bool) -> Tensor:
    """Tell the expert group whether this rank is about to run a forward; return if any is (0-d)."""
    any_busy = torch.tensor(float(busy), device=model.device)
    data.max_([any_busy], mesh().group("ep"))
    return any_busy


def _idle_forward(model: K2Model) -> Tensor:
    """Return a number that depends on a forward of one token of padding."""
    padding_11 = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    return model.hidden(padding_11, valid_BT=torch.zeros_like(padding_11, dtype=torch.bool)).sum()
