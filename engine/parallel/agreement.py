"""Check that tensors which lie on several ranks have the same bits on each of them.

Ranks that hold the same tensors compare sums of their bits, which a device adds up about as fast as it reads memory. A
single changed bit always changes them; changes that cancel in one sum are seen in the other. They guard against ranks
that drift apart, not against an attacker, and do not see tensors whose numbers are the same in another order.
"""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from engine.parallel import data
from engine.parallel.layout import DIMENSIONS
from engine.parallel.mesh import mesh
from engine.parallel.placement import Placement
from kernels.host import to_host

WORD = 8
"""Bytes that are added up as one number."""
BLOCK = 1 << 16
"""Words of which the second sum is made at once, so that its factors stay in a processor's cache."""


def require_equal(tensors: Mapping[str, Tensor], placement: Callable[[str], Placement], when: str) -> None:
    """Stop on every rank unless each tensor is equal on all ranks that hold it, whole or the same part of it.

    All ranks call it together. Raises UserError naming the tensor and the rank that differs.
    """
    place = mesh()
    if place.grid.ranks == 1:
        return
    sums = dict(zip(tensors, (read.tolist() for read in to_host(*map(bit_sums, tensors.values())))))
    differences = [
        _difference({name: sums[name] for name in tensors if dimension in placement(name).replicated}, dimension)
        for dimension, size in zip(DIMENSIONS, place.grid.sizes, strict=True)
        if size > 1
    ]
    difference = next(filter(None, differences), "")
    data.refuse_everywhere(
        difference
        and f"{difference} {when}: the ranks have drifted apart, as on machines of different kinds; use machines of "
        "one kind, or one process"
    )


def _difference(sums: Mapping[str, list[int]], dimension: str) -> str:
    """Return which tensor differs between the ranks along a dimension, and on which rank; "" if none does."""
    group = mesh().group(dimension)
    everyones = data.from_all(sums, group)
    for number, others in enumerate(everyones):
        if others != everyones[0]:
            names = [*everyones[0], *others]
            name = next(name for name in names if everyones[0].get(name) != others.get(name))
            assert group is not None  # there are several ranks
            rank, first = (dist.get_global_rank(group, place) for place in (number, 0))
            return f"{name} of rank {rank} differs from that of rank {first}"
    return ""


def bit_sums(tensor: Tensor) -> Tensor:
    """Return two sums over the bits of a tensor in words of 64, modulo 2^64: (2,), int64, on its device.

    The first is the sum of the words, the second that of the products of their halves, so that no exchange of amounts
    between words leaves both as they were.
    """
    octets = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if octets.storage_offset() % WORD:
        octets = octets.clone()
    whole = octets.numel() // WORD * WORD
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for words in octets[:whole].view(torch.int64).split(BLOCK):
        _add_(sums, words)
    if whole < octets.numel():
        rest = octets.new_zeros(WORD)
        rest[: octets.numel() - whole] = octets[whole:]
        _add_(sums, rest.view(torch.int64))
    return sums


def _add_(sums: Tensor, words: Tensor) -> None:
    products = words >> 32
    products *= words
    sums[0] += words.sum()
    sums[1] += products.sum()
