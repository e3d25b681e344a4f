"""Communication between the ranks of a training: sums, maxima, and values that all must agree on.

torch.distributed's default process group decides who takes part, or a `group` of its ranks (engine/parallel/mesh.py);
without one, a process is alone and every function here does nothing. CPU tensors go through gloo, CUDA tensors through
NCCL. All ranks of a group must call the same functions in the same order.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from engine.device import CUDA, device
from engine.errors import UserError

T = TypeVar("T")
BUCKET = 1 << 24
"""Gradients are sent together in messages of about this many numbers: few round trips, little memory."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files that all ranks share."""
        return self.rank == 0


ALONE = Ranks()


class RankLost(Exception):
    """Another rank is gone, so this one cannot continue; the other rank knows the reason."""


_GONE = re.compile(
    r"connection (was )?(likely )?(closed|reset|refused|aborted)|broken pipe|timed out|timeout"
    r"|network error|remote process",
    re.IGNORECASE,
)
"""How gloo, NCCL and the store say that the other side is gone, always in a RuntimeError."""


def ranks() -> Ranks:
    """Return this process's rank and the number of ranks; alone if no process group was started."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def size_of(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks in a group; None is the group of all."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def start() -> Ranks:
    """Join the process group that torchrun's environment (RANK, WORLD_SIZE, MASTER_ADDR …) describes.

    Its backends are those of this process's device (engine/device.py).
    """
    backend = "cpu:gloo,cuda:nccl" if device().type == CUDA else "gloo"
    together(lambda: dist.init_process_group(backend))
    return ranks()


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def together(call: Callable[[], T]) -> T:
    """Run a collective operation; raises RankLost if another rank has gone, instead of a socket's error."""
    try:
        return call()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistNetworkError) or _GONE.search(str(error))):
            raise  # a defect, or this rank's own problem, which the traceback shows
        rank = os.environ.get("RANK", "0")
        raise RankLost(f"rank {rank}: another rank is gone ({str(error).split('. ')[0]})") from error


def _reduce_(tensors: Sequence[Tensor], op: Any, among: dist.ProcessGroup | None) -> None:
    """Reduce tensors of one type and device in place, in one message."""
    if not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    together(lambda: dist.all_reduce(flat, op=op, group=among))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def sum_(tensors: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by its sum over the ranks of a group; types and devices may differ."""
    if size_of(group) == 1:
        return
    for bucket in buckets(tensors):
        _reduce_(bucket, dist.ReduceOp.SUM, group)


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in messages of about BUCKET numbers, of one type and device each."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for of_a_kind in alike.values():
        bucket, numbers = [], 0
        for tensor in of_a_kind:
            bucket.append(tensor)
            numbers += tensor.numel()
            if numbers >= BUCKET:
                yield bucket
                bucket, numbers = [], 0
        if bucket:
            yield bucket


def max_(tensors: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by its maximum over the ranks of a group; all are on one device. A NaN stays a NaN.

    gloo's MAX compares with <, so that a NaN on any rank but the first would be lost: a flag for NaN is sent as well.
    """
    if size_of(group) == 1 or not tensors:
        return
    numbers = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
    lost = numbers.isnan()
    both = torch.stack((numbers.masked_fill(lost, float("-inf")), lost.double()))
    together(lambda: dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group))
    whole = both[0].masked_fill(both[1] > 0, float("nan"))
    for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def sum_gradients_(parameters: Sequence[torch.nn.Parameter], group: dist.ProcessGroup | None = None) -> None:
    """Sum each parameter's gradient over the ranks of a group; where only some have one, it is zero on the others."""
    if size_of(group) > 1:
        sum_((p.grad for p in with_gradients(parameters, group) if p.grad is not None), group)


def with_gradients(
    parameters: Sequence[torch.nn.Parameter], group: dist.ProcessGroup | None = None
) -> list[torch.nn.Parameter]:
    """Return the parameters that any rank of a group has a gradient of; where this rank has none, it becomes zero."""
    if size_of(group) == 1 or not parameters:
        return [p for p in parameters if p.grad is not None]
    have = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    together(lambda: dist.all_reduce(have, op=dist.ReduceOp.MAX, group=group))
    moved = [p for p, some in zip(parameters, have.tolist(), strict=True) if some]
    for p in moved:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    return moved


def from_first(value: T) -> T:
    """Return rank 0's `value` on every rank."""
    if ranks().size == 1:
        return value
    box: list[Any] = [value]
    together(lambda: dist.broadcast_object_list(box, src=0))
    received: T = box[0]
    return received


def copy_from_first_(tensors: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by that of the group's first rank."""
    if size_of(group) > 1:
        for tensor in tensors:
            together(partial(dist.broadcast, tensor, group=group, group_src=0))


def from_all(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Return the `value` of every rank of a group, small and picklable, by rank."""
    size = size_of(group)
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    together(lambda: dist.all_gather_object(values, value, group=group))
    return values


def refuse_everywhere(refusal: str) -> None:
    """Raise UserError on every rank if any has a `refusal` (a sentence; "" for none); it is the first such rank's."""
    if first := next(filter(None, from_all(refusal)), ""):
        raise UserError(first)


def second_group() -> dist.ProcessGroup | None:
    """Return a group of all ranks over gloo for the messages of another thread, which must not mix with this one's.

    All ranks must call it together. Returns None where a process is alone.
    """
    return together(lambda: dist.new_group(backend="gloo")) if ranks().size > 1 else None
