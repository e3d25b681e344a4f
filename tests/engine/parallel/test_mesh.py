"""The mesh of real gloo ranks: coordinates as the formula says, and groups that sum over the right ranks."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from engine.errors import UserError
from engine.parallel.layout import DIMENSIONS, Grid
from engine.parallel.mesh import Mesh
from tests.engine.parallel.ranks import together


def place(rank: int, grid: Grid) -> dict[str, Any]:
    """What a rank's mesh says: its coordinates, and which ranks each of its groups sums over (as bits of a sum)."""
    mesh = Mesh(grid)
    groups = {name: mesh.group(name) for name in DIMENSIONS} | {"replicas": mesh.replicas}
    sums = {}
    for name, group in groups.items():
        bit = torch.tensor(1 << rank)
        dist.all_reduce(bit, group=group)
        sums[name] = [other for other in range(grid.ranks) if int(bit) >> other & 1]
    return {"coordinates": mesh.coordinates(), **sums}


@pytest.mark.parametrize("grid", [Grid(2, 2, 1), Grid(2, 2, 2)], ids=lambda grid: f"{grid.ranks} ranks")
def test_coordinates_and_groups_are_those_of_the_formula(grid: Grid) -> None:
    for rank, said in enumerate(together(grid.ranks, place, grid)):
        assert said["coordinates"] == grid.coordinates(rank)
        for name in DIMENSIONS:
            assert said[name] == grid.along(rank, [name])
        assert said["replicas"] == grid.along(rank, ["dp", "ep"])


def test_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(UserError, match="the layout has 2 ranks .* but 1 were started: change layout"):
        Mesh(Grid(ep=2))
