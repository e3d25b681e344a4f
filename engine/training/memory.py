"""How a training saves memory, as its layout says: what forwards keep for their backwards, and what waits on the host.

kernels/kept.py does the first; engine/parallel/offload.py and this module the second.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.parallel.arenas import Arenas, Copy, arenas_of, require_host_memory
from engine.parallel.layout import Layout
from engine.parallel.mesh import mesh
from engine.parallel.offload import Offload
from engine.parallel.pipeline_table import in_flight
from engine.training.state import Optimizer, TrainState
from kernels.kept import Memory

STATES = "the optimizer's state"


def memory_of(layout: Layout, device: torch.device) -> Memory | None:
    """Return what the blocks' forwards keep; None if the layout saves nothing of it."""
    away = "activations" in layout.offload
    if not (layout.recompute or layout.fp8_storage or away):
        return None
    most = in_flight(layout.schedule, layout.pp, layout.vpp, mesh().coordinates()["pp"])
    store = Offload(device, in_flight=most) if away else None
    return Memory(frozenset(layout.recompute), layout.fp8_storage, store)


def saving_memory(state: TrainState, layout: Layout) -> "States":
    """Switch on what the layout says for a model's forwards; return where the optimizer's state is to be.

    Raises UserError if the state is to wait on the host, which has no memory for it.
    """
    device = state.model.device
    state.model.keep(memory_of(layout, device))
    states = States(state.optimizer, "optimizer" in layout.offload, device)
    states.require_room()
    return states


class States:
    """Where an optimizer's state is between its steps: on the host if the layout says so, else where it was made.

    Its tensors stay the same objects, so that checkpoints, and whoever resets them, find them in either place.
    """

    def __init__(self, optimizer: Optimizer, away: bool, device: torch.device, arenas: Arenas | None = None) -> None:
        self.optimizer = optimizer
        self.arenas = (arenas or arenas_of(device, 1)) if away else None
        self._away: list[tuple[Tensor, Copy]] = []
        self._back: list[Copy] = []

    def require_room(self) -> None:
        """Refuse, if the state is to wait on the host, a host that has no memory for it."""
        if self.arenas is not None:
            require_host_memory(self.optimizer.state_bytes, "optimizer", STATES)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Have the state on the device in this context."""
        self.bring()
        yield
        self.send()

    def send(self) -> None:
        """Copy the state to the host, and free it on the device; return when all has arrived."""
        if self.arenas is None:
            return
        self._back.clear()
        gone = {id(tensor) for tensor, _ in self._away}
        for tensor in (tensor for tensor in self._tensors() if id(tensor) not in gone):
            copy = self.arenas.out(tensor.data, STATES)
            tensor.data = copy.tensor
            self._away.append((tensor, copy))
        self.arenas.settle()

    def bring(self) -> None:
        """Copy the state to the device, if it is on the host."""
        if self.arenas is None:
            return
        self._back = [self.arenas.back(copy, STATES) for _, copy in self._away]
        for (tensor, _), copy in zip(self._away, self._back, strict=True):
            copy.wait()
            tensor.data = copy.use()
        self._away.clear()

    def _tensors(self) -> list[Tensor]:
        """Return the state's tensors but single numbers, which stay where they are."""
        floats = [tensor for tensor in self.optimizer.state_dict().values() if tensor.is_floating_point()]
        return [tensor for tensor in floats if tensor.numel() > 1]
