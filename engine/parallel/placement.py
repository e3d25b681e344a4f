"""Which ranks of the mesh hold a tensor, or a part of it, and which of them writes it to a checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.parallel.layout import DIMENSIONS, Grid, Layout, stage_of

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
EXPERTS = ".experts."
"""Part of the names of the routed experts' stacks, whose first axis is that of the experts."""
COUNT = "/step"
"""End of the names of AdamW's count of steps, a single number for each weight."""
_LAYER = re.compile(r"[:/]layers\.(\d+)\.")


@dataclass(frozen=True)
class Ranges:
    """Parts of a tensor's axis 0, of any size: the ranks along `dimensions`, the last of them fastest, in this order.

    The n-th of these ranks holds the numbers from the n-th of the `offsets` to the next; two equal ones are no part.
    """

    dimensions: tuple[str, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """How a tensor lies on the ranks, by dimension of the mesh (pp, dp, ep); every dimension stands in one field.

    `replicated`: the dimensions along which all ranks hold equal copies. `sharded`: (dimension, axis) pairs; along such
    a dimension the ranks hold consecutive equal parts of that axis. `owned`: (dimension, coordinate) pairs; along such
    a dimension only the ranks at that coordinate hold the tensor, whole or as the other fields say. `ranges`: along its
    dimensions the ranks hold consecutive parts of axis 0 that need not be equal, some of them none.
    """

    replicated: tuple[str, ...] = DIMENSIONS
    sharded: tuple[tuple[str, int], ...] = ()
    owned: tuple[tuple[str, int], ...] = ()
    ranges: Ranges | None = None


REPLICATED = Placement()
"""Every rank holds the whole tensor."""


def is_expert(name: str) -> bool:
    """Return whether a tensor's name says that it is a stack of routed experts, or belongs to one."""
    return EXPERTS in name


def placed_in(name: str, layout: Layout, grid: Grid, layers: int) -> Placement:
    """Return how a tensor of a model of so many layers, or of its optimizer, lies on a grid, by the tensor's name.

    A layer is owned by the rank whose stage it is in, the embedding by the first and what follows the layers by the
    last, experts' stacks are cut over ep, and optimizer tensors lie where their weight does.
    """
    owned: tuple[tuple[str, int], ...] = ()
    if grid.pp > 1 and (stage := _stage(name, layout, layers)) is not None:
        owned = (("pp", stage % grid.pp),)
    cut = grid.ep > 1 and is_expert(name) and not name.endswith(COUNT)
    sharded = (("ep", 0),) if cut else ()
    used = {dimension for dimension, _ in (*owned, *sharded)}
    return Placement(tuple(name for name in DIMENSIONS if name not in used), sharded, owned)


def in_ranges(placement: Placement, ranges: Ranges) -> Placement:
    """Return the placement of a tensor of which the ranks that hold a weight have ranges instead."""
    replicated = tuple(name for name in placement.replicated if name not in ranges.dimensions)
    sharded = tuple((name, axis) for name, axis in placement.sharded if name not in ranges.dimensions)
    return Placement(replicated, sharded, placement.owned, ranges)


def _stage(name: str, layout: Layout, layers: int) -> int | None:
    """Return the pipeline stage of a tensor; None if it belongs to the whole model."""
    if layer := _LAYER.search(name):
        return stage_of(int(layer[1]), layers, layout)
    ends = {"embed_tokens": 0, "norm": layout.pp - 1, "lm_head": layout.pp - 1}
    return next((stage for end, stage in ends.items() if re.search(rf"[:/]{end}\.", name)), None)


@dataclass(frozen=True)
class Piece:
    """The part of a tensor of shape `whole` that a rank holds: by axis, `sizes` numbers from `offsets` on."""

    whole: Shape
    offsets: Shape
    sizes: Shape


def piece(placement: Placement, sizes: Shape, grid: Grid, rank: int) -> Piece:
    """Return which part of the whole tensor a rank's local tensor of shape `sizes` is.

    >>> piece(Placement(("pp", "dp"), sharded=(("ep", 0),)), (3, 8), Grid(ep=2), 1)
    Piece(whole=(6, 8), offsets=(3, 0), sizes=(3, 8))
    """
    whole, offsets = list(sizes), [0] * len(sizes)
    for axis, (number, parts) in _cuts(placement, grid, rank).items():
        whole[axis], offsets[axis] = sizes[axis] * parts, sizes[axis] * number
    if placement.ranges is not None:
        whole[0], offsets[0] = placement.ranges.offsets[-1], _range(placement.ranges, grid, rank).start
    return Piece(tuple(whole), tuple(offsets), sizes)


def held(placement: Placement, whole: Shape, grid: Grid, rank: int) -> Piece | None:
    """Return the part of a tensor of shape `whole` that a rank holds, None if it holds nothing of it.

    Raises ValueError if a sharded axis does not divide, or ranges are of another length.
    """
    own = grid.coordinates(rank)
    if any(own[dimension] != coordinate for dimension, coordinate in placement.owned):
        return None
    sizes, offsets = list(whole), [0] * len(whole)
    for axis, (number, parts) in _cuts(placement, grid, rank).items():
        if whole[axis] % parts:
            raise ValueError(f"axis {axis} of a tensor of shape {whole} does not divide into {parts} parts")
        sizes[axis] = whole[axis] // parts
        offsets[axis] = sizes[axis] * number
    if placement.ranges is not None:
        if (length := placement.ranges.offsets[-1]) != whole[0]:
            raise ValueError(f"axis 0 of a tensor of shape {whole} is {length} long in its ranges")
        part = _range(placement.ranges, grid, rank)
        offsets[0], sizes[0] = part.start, len(part)
        if not part:
            return None
    return Piece(whole, tuple(offsets), tuple(sizes))


def _range(ranges: Ranges, grid: Grid, rank: int) -> range:
    """Return the part of axis 0 that a rank holds."""
    own, extents, number = grid.coordinates(rank), dict(zip(DIMENSIONS, grid.sizes, strict=True)), 0
    for dimension in ranges.dimensions:
        number = number * extents[dimension] + own[dimension]
    return range(ranges.offsets[number], ranges.offsets[number + 1])


def _cuts(placement: Placement, grid: Grid, rank: int) -> dict[int, tuple[int, int]]:
    """Return for each sharded axis the number of this rank's part, and of how many parts."""
    own, extents = grid.coordinates(rank), dict(zip(DIMENSIONS, grid.sizes, strict=True))
    cuts: dict[int, tuple[int, int]] = {}
    for dimension, axis in placement.sharded:  # an axis sharded twice is cut along the first dimension, then the second
        number, parts = cuts.get(axis, (0, 1))
        cuts[axis] = number * extents[dimension] + own[dimension], parts * extents[dimension]
    return cuts


def dealt(tensors: Mapping[str, "Tensor"], placements: Mapping[str, Placement], grid: Grid, rank: int) -> list[str]:
    """Return which of its tensors a rank writes to a checkpoint: one of the ranks that hold a piece writes it.

    The pieces that one group of ranks holds are dealt out over the group, the largest first, each to the rank with the
    fewest bytes so far. Every rank computes this from its own tensors alone, because a group's ranks hold the same.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in tensors:
        groups.setdefault(placements[name].replicated, []).append(name)
    mine = []
    for replicated, names in groups.items():
        holders = grid.along(rank, replicated)
        bytes_of = dict.fromkeys(holders, 0)
        for name in sorted(names, key=lambda name: (-tensors[name].nbytes, name)):
            writer = min(holders, key=bytes_of.__getitem__)
            bytes_of[writer] += max(tensors[name].nbytes, 1)
            if writer == rank:
                mine.append(name)
    return mine
