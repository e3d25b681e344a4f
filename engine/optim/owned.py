"""ZeRO-1's messages: gradients to the owners of their weights, and the moved weights from the owners to all others.

Each rank owns ranges of axis 0 of its weights (engine/parallel/ownership.py). A reduce-scatter, in buckets, takes the
sums of the gradients straight to the owners, and a gather brings the working copies back: each once a step for the
dense weights over dp and ep, and once for the experts over dp.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.device import placed
from engine.errors import UserError
from engine.optim import foreach
from engine.parallel import data
from engine.parallel.mesh import mesh
from engine.parallel.ownership import DENSE_OWNERS, owners, weight_of
from engine.parallel.traffic import GRADIENTS, WEIGHTS, sent
from kernels.host import to_host


@dataclass(frozen=True)
class Circle:
    """Ranks that hold equal weights, by name, each of which owns other rows of them: `shares`, by rank."""

    group: dist.ProcessGroup | None
    rank: int
    named: dict[str, nn.Parameter]
    shares: dict[str, list[range]]

    def reduce_(self) -> dict[str, Tensor]:
        """Return the sums of the gradients of what this rank owns, by weight; the weights' own gradients are gone then.

        A gradient that only some ranks have is zero on the others. A rank that is alone keeps its gradients.
        """
        out: dict[str, Tensor] = {}
        for bucket in self._buckets(data.with_gradients(list(self.named.values()), self.group)):
            gradients = {name: weight.grad for name, weight in bucket.items() if weight.grad is not None}
            out |= gradients if data.size_of(self.group) == 1 else self._to_owners(gradients)
        return out

    def _to_owners(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shares = self._by_rank(gradients)
        parts = [torch.cat([rows.reshape(-1) for rows in share]) for share in shares]
        own = torch.empty_like(parts[self.rank])
        data.together(lambda: dist.reduce_scatter(own, parts, group=self.group))
        total = sum(part.nbytes for part in parts)
        sent(GRADIENTS, total, total - own.nbytes)
        for name in gradients:
            self.named[name].grad = None
        return dict(zip(gradients, _cut(own, shares[self.rank]), strict=True))

    def gather_(self) -> None:
        """Give each rank the weights as their owners have them."""
        if data.size_of(self.group) > 1:
            for bucket in self._buckets(self.named.values()):
                self._from_owners({name: weight.detach() for name, weight in bucket.items()})

    def _from_owners(self, weights: Mapping[str, Tensor]) -> None:
        shares = self._by_rank(weights)
        own = torch.cat([rows.reshape(-1) for rows in shares[self.rank]])
        parts = _gathered(own, [sum(rows.numel() for rows in share) for share in shares], self.group)
        sent(WEIGHTS, own.nbytes * len(shares), own.nbytes * (len(shares) - 1))
        for rank, (share, part) in enumerate(zip(shares, parts, strict=True)):
            if rank != self.rank:
                foreach.copy_(share, _cut(part, share))

    def _buckets(self, weights: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield the weights by name, as many together as one message sends."""
        names = {id(weight): name for name, weight in self.named.items()}
        for bucket in data.buckets(weights):
            yield {names[id(weight)]: weight for weight in bucket}

    def _by_rank(self, tensors: Mapping[str, Tensor]) -> list[list[Tensor]]:
        """Return for each rank views of the rows that it owns of each of the tensors."""
        return [
            [tensor[rows.start : rows.stop] for name, tensor in tensors.items() for rows in [self.shares[name][rank]]]
            for rank in range(data.size_of(self.group))
        ]


def _cut(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Return the parts of a flat tensor that follow each other in it, in these shapes."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _gathered(own: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Return the flat tensors of all ranks, which have these sizes.

    NCCL's all-gather takes sizes that differ. gloo's does not, but its all-to-all does.
    """
    flat = own.new_empty(sum(sizes))
    parts = list(flat.split(sizes))
    if own.is_cuda:
        data.together(lambda: dist.all_gather(parts, own, group=group))
    else:
        copies, each = own.repeat(len(sizes)), [own.numel()] * len(sizes)
        data.together(lambda: dist.all_to_all_single(flat, copies, sizes, each, group=group))
    return parts


class OwnedGradients:
    """The gradients that this rank owns, the ZeRO form of `Gradients`, and what it owns of the weights themselves."""

    def __init__(self, named: Mapping[str, nn.Parameter], muon: Set[str], heads: Mapping[str, int]) -> None:
        grid, place = mesh().grid, mesh().coordinates()
        weights = [weight_of(name, tuple(p.shape), name in muon, heads.get(name)) for name, p in named.items()]
        masters = any(parameter.element_size() < 4 for parameter in named.values())
        self.named = dict(named)
        self.ownership = owners(weights, grid.dp, grid.ep, masters=masters)
        shares = {name: self.ownership.shares(name, place["ep"]) for name in named}
        dense = {weight.name for weight in weights if weight.dimensions == DENSE_OWNERS}
        self.circles = [
            Circle(group, rank, {name: named[name] for name in names}, {name: shares[name] for name in names})
            for group, rank, names in (
                (mesh().replicas, mesh().rows.rank, [name for name in named if name in dense]),
                (mesh().group("dp"), place["dp"], [name for name in named if name not in dense]),
            )
            if names
        ]
        self.rows = {name: circle.shares[name][circle.rank] for circle in self.circles for name in circle.named}
        self.weights = {name: p.detach()[self.rows[name].start : self.rows[name].stop] for name, p in named.items()}
        """What this rank owns of each weight, views that may have no rows."""
        self.heads = {
            name: len(self.rows[name]) * count // len(named[name]) for name, count in heads.items() if self.rows[name]
        }
        """How many heads it owns of the weights whose heads are orthogonalised apart."""
        self._name_of = {id(parameter): name for name, parameter in named.items()}
        self.own: dict[str, Tensor] = {}
        """The summed gradients of what this rank owns, by weight; they may have no rows."""

    def rows_of(self, parameter: nn.Parameter) -> range:
        """Return which rows of a weight this rank owns."""
        return self.rows[self._name_of[id(parameter)]]

    def reduce_(self) -> None:
        """Give each owner the sums of its gradients over the ranks.

        Raises UserError if a weight has moved to other memory since the optimizer was made.
        """
        for name, parameter in self.named.items():
            if parameter.untyped_storage()._cdata != self.weights[name].untyped_storage()._cdata:
                raise UserError(
                    f"MuonClip: {name} was moved or replaced after the optimizer was made, which owns a part of its "
                    "memory; convert or load the model first, and then make the optimizer"
                )
        self.own = {name: gradient for circle in self.circles for name, gradient in circle.reduce_().items()}

    def norm(self) -> Tensor:
        """Return the norm of the whole model's gradient, the same bits on all ranks: each number has one owner."""
        own = [gradient for gradient in self.own.values() if gradient.numel()]
        like = next(iter(self.named.values()))
        norm = torch.nn.utils.get_total_norm(own) if own else torch.zeros((), device=like.device)
        square = norm.double().square()
        data.sum_([square])
        return square.sqrt()

    def clip_(self, factor: Tensor) -> None:
        """Multiply the gradients by `factor`."""
        foreach.mul_(list(self.own.values()), factor)

    def over_dp(self, count: int) -> int:
        """Return the sum over the dp ranks of the number of something among the experts that each owns."""
        numbers = placed([count], next(iter(self.named.values())).device)
        data.sum_([numbers], mesh().group("dp"))
        return int(to_host(numbers)[0][0])

    def gather_(self) -> None:
        """Give all ranks the weights as their owners have them."""
        for circle in self.circles:
            circle.gather_()
