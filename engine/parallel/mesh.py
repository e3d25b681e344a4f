"""The ranks of a training as torch's DeviceMesh, and the groups of ranks that sum together."""

from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from engine.errors import UserError
from engine.parallel import data
from engine.parallel.layout import DIMENSIONS, Grid


class Mesh:
    """The mesh of all ranks in the process group, which must be as many as `grid` has; all make it together.

    `device` is the type of the tensors that its groups send: "cpu" or "cuda".
    """

    def __init__(self, grid: Grid, device: str = "cpu") -> None:
        if (size := data.ranks().size) != grid.ranks:
            raise UserError(
                f"the layout has {grid.ranks} ranks (pp {grid.pp}, dp {grid.dp}, ep {grid.ep}), but {size} were "
                "started: change layout or the number of ranks in compute.yml"
            )
        self.grid = grid
        self.devices: DeviceMesh = init_device_mesh(device, grid.sizes, mesh_dim_names=DIMENSIONS)
        self._replicas = self.devices["dp", "ep"]._flatten("replicas")  # public only for a whole mesh

    def group(self, dimension: str) -> ProcessGroup:
        """Return the group of the ranks whose coordinates differ from this rank's in one dimension."""
        return self.devices.get_group(dimension)

    @property
    def replicas(self) -> ProcessGroup:
        """The group of the ranks that hold the same attention and other weights that are not of experts: dp and ep."""
        return self._replicas.get_group()

    def coordinates(self) -> dict[str, int]:
        """Return this rank's coordinate in each dimension."""
        place = self.devices.get_coordinate() or ()  # never None: every rank is in the mesh
        return dict(zip(DIMENSIONS, place, strict=True))
