"""The mesh of real gloo ranks: coordinates as the formula says, groups over the right ranks, and each rank's rows."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from engine.errors import UserError
from engine.parallel.data import Ranks
from engine.parallel.layout import DIMENSIONS, WHOLE, Grid, Layout, part_of
from engine.parallel.mesh import laid_out, mesh
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config


def place(rank: int, layout: Layout) -> dict[str, Any]:
    """What a rank's mesh says: its coordinates, and which ranks each of its groups sums over (as bits of a sum)."""
    with laid_out(layout):
        return {"set": of_the_mesh(rank), "part": mesh().part(config())}


def of_the_mesh(rank: int) -> dict[str, Any]:
    groups = {name: mesh().group(name) for name in DIMENSIONS} | {"replicas": mesh().replicas}
    sums = {}
    for name, group in groups.items():
        bit = torch.tensor(1 << rank)
        dist.all_reduce(bit, group=group)
        sums[name] = [other for other in range(mesh().grid.ranks) if int(bit) >> other & 1]
    return {"coordinates": mesh().coordinates(), "rows": mesh().rows, **sums}


@pytest.mark.parametrize(
    ("layout", "grid"),
    [(Layout(pp=2), Grid(2, 2, 1)), (Layout(pp=2, ep=2), Grid(2, 2, 2)), (WHOLE, Grid(dp=2))],
    ids=str,
)
def test_coordinates_and_groups_are_those_of_the_formula(layout: Layout, grid: Grid) -> None:
    for rank, said in enumerate(together(grid.ranks, place, layout)):
        own = said["set"]
        assert own["coordinates"] == grid.coordinates(rank)
        for name in DIMENSIONS:
            assert own[name] == grid.along(rank, [name])
        assert own["replicas"] == grid.along(rank, ["dp", "ep"])
        assert own["rows"] == Ranks(own["replicas"].index(rank), grid.dp * grid.ep)
        assert said["part"] == (None if layout == WHOLE else part_of(layout, grid, rank, 3, 6))


def without_a_layout(rank: int) -> dict[str, Any]:
    return of_the_mesh(rank)


def test_ranks_for_which_no_layout_was_set_are_replicas_and_make_no_groups_of_several() -> None:
    for rank, own in enumerate(together(2, without_a_layout)):
        assert (own["dp"], own["replicas"], own["pp"], own["ep"]) == ([0, 1], [0, 1], [rank], [rank])
        assert own["rows"] == Ranks(rank, 2)


def test_a_process_alone_has_no_groups_and_a_context_sets_its_layout() -> None:
    own = Layout(vpp=1)
    with laid_out(own):
        assert mesh() is mesh()
        assert mesh().layout is own
        assert (mesh().rows, mesh().group("dp"), mesh().replicas) == (Ranks(), None, None)
        with pytest.raises(UserError, match="the layout .*ep 2.* needs a multiple of 2 ranks, but 1 were started"):
            laid_out(Layout(ep=2)).__enter__()
        assert mesh().layout is own
    assert mesh().layout is WHOLE
    assert mesh().part(config()) is None
