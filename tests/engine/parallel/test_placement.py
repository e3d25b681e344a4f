"""Placements: pieces cover each tensor once, and each piece is written once, by ranks with equal loads."""

import itertools

import pytest
import torch

from engine.parallel.layout import DIMENSIONS, Grid
from engine.parallel.placement import REPLICATED, Placement, Ranges, dealt, held, piece

GRIDS = [Grid(), Grid(dp=4), Grid(2, 2, 1), Grid(2, 2, 2), Grid(ep=4)]
PLACEMENTS = [
    REPLICATED,
    Placement(("pp", "dp"), sharded=(("ep", 0),)),
    Placement(("pp",), sharded=(("dp", 1), ("ep", 1))),
    Placement(("pp",), sharded=(("dp", 0), ("ep", 1))),
    Placement(("dp",), sharded=(("ep", 0),), owned=(("pp", 0),)),
    Placement((), owned=(("pp", 0), ("dp", 0), ("ep", 0))),
]
SHAPE = (8, 16)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("placement", PLACEMENTS, ids=range(len(PLACEMENTS)))
def test_pieces_cover_a_tensor_and_copies_are_where_they_are_replicated(placement: Placement, grid: Grid) -> None:
    pieces = {rank: held(placement, SHAPE, grid, rank) for rank in range(grid.ranks)}
    covered = torch.zeros(SHAPE, dtype=torch.int64)
    for part in {part for part in pieces.values() if part}:
        covered[tuple(slice(o, o + s) for o, s in zip(part.offsets, part.sizes, strict=True))] += 1
    assert (covered == 1).all(), "the distinct pieces do not overlap and leave nothing out"
    for rank, part in pieces.items():
        if part:
            assert piece(placement, part.sizes, grid, rank) == part
            copies = [other for other, same in pieces.items() if same == part]
            assert copies == grid.along(rank, placement.replicated)


def test_an_axis_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="axis 0 of a tensor of shape \\(6, 2\\) does not divide into 4 parts"):
        held(Placement(("pp", "dp"), sharded=(("ep", 0),)), (6, 2), Grid(ep=4), 1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_piece_is_written_once_and_by_ranks_with_equal_loads(grid: Grid) -> None:
    sizes = torch.randint(1, 400, (120,), generator=torch.Generator().manual_seed(0)).tolist()
    expert = Placement(("dp",), sharded=(("ep", 0),), owned=(("pp", 0),))
    writers, loads = {}, dict.fromkeys(range(grid.ranks), 0)
    for rank in range(grid.ranks):
        tensors = {f"w{n}": torch.empty(size, dtype=torch.uint8) for n, size in enumerate(sizes)}
        placements = dict.fromkeys(tensors, REPLICATED)
        if grid.coordinates(rank)["pp"] == 0:
            tensors["expert"], placements["expert"] = torch.empty(8, 2), expert
        for name in dealt(tensors, placements, grid, rank):
            part = piece(placements[name], tuple(tensors[name].shape), grid, rank)
            assert (name, part) not in writers, f"ranks {writers[name, part]} and {rank} write the same"
            writers[name, part] = rank
            loads[rank] += tensors[name].nbytes
    assert len(writers) == len(sizes) + grid.ep
    assert max(loads.values()) - min(loads.values()) <= 100 + max(sizes)


def test_dealing_needs_no_order() -> None:
    names = ["a", "b", "c"]
    for order in itertools.permutations(names):
        tensors = {name: torch.empty(4) for name in order}
        placements = dict.fromkeys(names, REPLICATED)
        assert [dealt(tensors, placements, Grid(dp=2), rank) for rank in (0, 1)] == [["a", "c"], ["b"]]
    assert REPLICATED.replicated == DIMENSIONS


UNEVEN = Placement(("pp",), ranges=Ranges(("dp", "ep"), (0, 5, 5, 6, 8)))
"""Of four replicas the second has nothing."""


def test_ranges_may_be_uneven_and_empty_and_number_the_ranks_in_their_own_order() -> None:
    for grid in (Grid(dp=4), Grid(ep=4), Grid(1, 2, 2), Grid(2, 2, 2)):
        for rank in range(grid.ranks):
            part, place = held(UNEVEN, SHAPE, grid, rank), grid.coordinates(rank)
            number = place["dp"] * grid.ep + place["ep"]
            expected = [(0, 5), None, (5, 1), (6, 2)][number]
            assert (None if part is None else (part.offsets[0], part.sizes[0])) == expected
            if part:
                assert piece(UNEVEN, part.sizes, grid, rank) == part
    experts = Placement((), owned=(("pp", 0),), ranges=Ranges(("ep", "dp"), (0, 1, 4, 7, 8)))
    parts = [held(experts, SHAPE, Grid(1, 2, 2), rank) for rank in range(4)]
    assert [part.offsets[0] for part in parts if part] == [0, 4, 1, 7], "ep is the slower dimension"
    with pytest.raises(ValueError, match="axis 0 of a tensor of shape \\(6, 2\\) is 8 long in its ranges"):
        held(UNEVEN, (6, 2), Grid(dp=4), 0)
