"""The mesh of this process: how the ranks of a training divide the model and the batches, and who sums with whom.

A compute class says `layout:` (conf/<profile>/compute.yml). Whoever runs a node, the driver or a rank, sets it for the
node; everything below asks `mesh()` and never chooses a layout itself. By default every rank holds the whole model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.device import device
from engine.errors import UserError
from engine.parallel.layout import DIMENSIONS, WHOLE, Grid, Layout, Part, part_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from engine.model.config import K2Config
    from engine.parallel.data import Ranks

REPLICAS = "replicas"
"""The name of the groups along dp and ep together."""


class Mesh:
    """The mesh of all ranks in the process group, which `layout` must divide; all ranks make it together.

    Where the layout divides no model (`WHOLE`), no further group is made.
    """

    def __init__(self, layout: Layout = WHOLE) -> None:
        from engine.parallel import data

        self.layout, ranks = layout, data.ranks()
        if ranks.size % (layout.pp * layout.ep):
            raise UserError(
                f"the layout (pp {layout.pp}, ep {layout.ep}) needs a multiple of {layout.pp * layout.ep} ranks, but "
                f"{ranks.size} were started: change layout or the number of ranks in compute.yml"
            )
        self.grid = Grid.of(layout, ranks.size)
        self.rank = ranks.rank
        self._groups: dict[str, ProcessGroup] = {}
        if self.cut:
            self._make_groups()

    def _make_groups(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        devices = init_device_mesh(device().type, self.grid.sizes, mesh_dim_names=DIMENSIONS)
        self._groups = {name: devices.get_group(name) for name in DIMENSIONS}
        self._groups[REPLICAS] = devices["dp", "ep"]._flatten(REPLICAS).get_group()  # public only for a whole mesh

    @property
    def cut(self) -> bool:
        """Whether a rank holds only a part of the model."""
        return self.layout.cuts

    @property
    def rows(self) -> "Ranks":
        """The place of this rank among the replicas: each of them sees other rows of a batch."""
        from engine.parallel.data import Ranks

        place = self.coordinates()
        return Ranks(place["dp"] * self.grid.ep + place["ep"], self.grid.dp * self.grid.ep)

    def coordinates(self) -> dict[str, int]:
        """Return this rank's coordinate in each dimension."""
        return self.grid.coordinates(self.rank)

    def group(self, dimension: str) -> "ProcessGroup | None":
        """Return the group of the ranks whose coordinates differ from this rank's in one dimension.

        None, which stands for all ranks in torch, only where the process is the only one.
        """
        import torch.distributed as dist

        if not dist.is_initialized():
            return None
        if dimension not in self._groups:  # the model is not cut, so all ranks are along dp, and none along the others
            along = dimension in ("dp", REPLICAS)
            own = dist.group.WORLD if along else dist.new_group([self.rank], use_local_synchronization=True)
            assert own is not None
            self._groups[dimension] = own
        return self._groups[dimension]

    @property
    def replicas(self) -> "ProcessGroup | None":
        """The group of the ranks that hold the same attention and other weights that are not of experts: dp and ep."""
        return self.group(REPLICAS)

    def part(self, config: "K2Config") -> Part | None:
        """Return what this rank holds of a model; None for all of it."""
        if not self.cut:
            return None
        return part_of(self.layout, self.grid, self.rank, config.num_hidden_layers, config.n_routed_experts)


@dataclass
class _Setting:
    """A layout that was set for this process, of all its threads, and the mesh that it gives."""

    layout: Layout
    mesh: Mesh | None = None


_set: list[_Setting] = []
"""The layouts that are set, the one that holds last."""


def mesh() -> Mesh:
    """Return the mesh of this process: that of the layout that was set, or one where every rank holds all."""
    if not _set:
        return Mesh()
    setting = _set[-1]
    setting.mesh = setting.mesh or Mesh(setting.layout)
    return setting.mesh


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Make `layout` this process's while the context lasts; all ranks of the process group enter it together.

    Raises UserError if the number of ranks does not divide.
    """
    _set.append(_Setting(layout))
    try:
        if layout.cuts:
            mesh()  # at once, because all ranks make its groups together
        yield
    finally:
        _set.pop()
