"""Ranks that exchange the rows of experts and have unequal shares: nothing waits, and the gradient is that of all."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from engine.model.cache import LatentCache
from engine.model.model import K2Model
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.mesh import laid_out, mesh
from engine.training.even import evened
from engine.training.padded import group_loss, pack_group, pad
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config, recorded

SIZES = config(n_routed_experts=8)
ROWS = [([5, 9, 2, 30], [0, 1, 0, 1]), ([7, 7, 1], [0, 0, 1]), ([8, 1, 2, 3, 4, 5], [0, 1, 1, 1, 1, 0])]


def grouped(model: K2Model, shares: range, size: int) -> Tensor:
    """A loss with an empty share: the last rank has all of one kind, of the other each has some."""
    batch = {}
    for kind, rows in {"few": ROWS[2:] * 2, "many": ROWS * 2}.items():
        last = [rows] if size - 1 in shares else []
        own = [rows[share::size] for share in shares] if kind == "many" else last
        batch |= pack_group(kind, pad([row for part in own for row in part]), sum(sum(mask) for _, mask in rows))
    return evened(lambda model, batch: group_loss(model, batch, len))(model, batch)[0]


def by_turns(model: K2Model, shares: range, size: int) -> Tensor:
    """A loss of twice as many forwards as the rank's number, each second one through the cache of the first."""

    def forwards(model: K2Model, numbers: list[int]) -> tuple[Tensor, None]:
        loss = 0.0 * model.norm.weight.sum()
        for number in numbers:
            ids = torch.randint(0, 61, (2, 5 + number), generator=torch.Generator().manual_seed(number))
            cache = LatentCache(SIZES, 2, 12, dtype=torch.float64)
            first = model.hidden(ids[:, :3], cache)
            cache.select(torch.tensor([0, 1]))
            loss = loss + first.square().sum() + model(ids[:, 3:], cache).square().mean()
        return loss, None

    return evened(forwards)(model, [sum(range(share)) + i for share in shares for i in range(share)])[0]


LOSSES = {loss.__name__: loss for loss in (grouped, by_turns)}


def trained(loss: str, shares: range, size: int) -> dict[str, Tensor]:
    """The loss, the gradients and what the forwards recorded, over all ranks, where this one has these shares."""
    model = K2Model(SIZES, seed=4, part=mesh().part(SIZES)).double()
    model.train()
    value = LOSSES[loss](model, shares, size)
    value.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    maxima, loads = recorded(model)
    value = value.detach()
    if len(shares) < size:
        for tensor in (value, loads, *(g for name, g in gradients.items() if ".experts." not in name)):
            dist.all_reduce(tensor)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    return {"loss": value, "maxima": maxima, "loads": loads} | gradients


def off(rank: int, size: int) -> dict[str, float]:
    """How far a rank's results are off those of one process, the largest for each loss."""
    farthest = {}
    for loss in LOSSES:
        with laid_out(WHOLE):
            alone = trained(loss, range(size), size)
        with laid_out(Layout(ep=size)):
            own = trained(loss, range(rank, rank + 1), size)
        held = slice(8 // size * rank, 8 // size * (rank + 1))
        pairs = [(tensor, alone[name][held] if ".experts." in name else alone[name]) for name, tensor in own.items()]
        farthest[loss] = max(float((a.double() - b).abs().max()) for a, b in pairs)
    return farthest


@pytest.mark.parametrize("size", [2, 4])
def test_uneven_ranks_add_up_to_one_process(size):
    for rank, farthest in enumerate(together(size, off, size)):
        assert set(farthest) == set(LOSSES)
        assert max(farthest.values()) <= 1e-10, (rank, farthest)


def test_nothing_is_added_where_experts_are_not_cut():
    def objective(model: K2Model, batch: None) -> tuple[Tensor, None]:
        return model.norm.weight.sum(), batch

    assert evened(objective) is objective
