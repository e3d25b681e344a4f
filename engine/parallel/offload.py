"""Activations on the host between their forward and their backward, brought back one micro-batch ahead.

What the forward of a micro-batch saves leaves the device at once. When the backward of one begins, its tensors come
back, and then those of the micro-batch whose backward is probably the next, so that at most two are on the device. A
wrong guess costs time, since tensors that came too early are dropped and fetched again, and nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from weakref import ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from engine.parallel.arenas import Arenas, Copy, arenas_of, require_host_memory
from engine.parallel.layout import RESIDENT


@dataclass(eq=False)
class _MicroBatch:
    """What one forward has saved: storages, each until the backward has used it."""

    number: int
    saved: list["ref[_Storage]"] = field(default_factory=list)

    def live(self) -> list["_Storage"]:
        """Return the storages that a backward still needs, in the order in which they were saved."""
        return [storage for each in self.saved if (storage := each()) is not None]

    def __repr__(self) -> str:
        return f"micro-batch {self.number}"


@dataclass(eq=False)
class _Storage:
    """One storage on the host, and on the device while its micro-batch is there."""

    of: _MicroBatch
    host: Copy
    device: Copy | None = None


@dataclass(frozen=True)
class Away:
    """A tensor in a storage that is on the host."""

    offload: "Offload"
    storage: _Storage
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def get(self) -> Tensor:
        """Return the tensor, on the device."""
        return self.offload.fetch(self.storage).as_strided(self.size, self.stride, self.offset)


class Offload:
    """The saved tensors of the micro-batches under way on one device; kernels/kept.py puts them here.

    `in_flight` micro-batches may be under way at once. Raises UserError after the first forward if the host has no
    memory for so many.
    """

    def __init__(self, device: torch.device, arenas: Arenas | None = None, in_flight: int = 1) -> None:
        self.arenas, self.in_flight = arenas or arenas_of(device, RESIDENT), in_flight
        self._numbers = count()
        self._under_way: list[_MicroBatch] = []
        self._leaving: list[_MicroBatch] = []
        """Micro-batches whose copies to the host may not all be made."""
        self._filling: _MicroBatch | None = None
        self._current: _MicroBatch | None = None
        self._ahead: _MicroBatch | None = None
        """Whose backward is under way, or was the last one, and whose tensors have come back for the next one."""
        self._seen: dict[tuple[int, torch.dtype], tuple[StorageWeakRef, _Storage]] = {}

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Let what is put here in this context be one micro-batch's."""
        self._keep_here([self._ahead])
        if len(self._leaving) + (self._ahead in self._under_way) >= RESIDENT:
            self._settle()
        self._filling = _MicroBatch(next(self._numbers))
        self._under_way.append(self._filling)
        self._leaving.append(self._filling)
        try:
            yield
            if self._filling.number == 0:
                held = sum(storage.host.tensor.nbytes for storage in self._filling.live())
                require_host_memory(held * (self.in_flight - 1), "activations", "activations")
        finally:
            self._filling = None
            self._seen.clear()

    def put(self, tensor: Tensor) -> Away:
        """Begin to send a tensor's storage to the host, unless it was; return what stands for the tensor."""
        of = self._filling
        if of is None:
            raise RuntimeError("a forward saves tensors outside of any micro-batch (Offload.micro_batch)")
        address = tensor.untyped_storage()._cdata, tensor.dtype
        if address not in self._seen:
            numbers = tensor.untyped_storage().nbytes() // tensor.element_size()
            storage = _Storage(of, self.arenas.out(tensor.as_strided((numbers,), (1,), 0), of))
            of.saved.append(ref(storage))
            self._seen[address] = StorageWeakRef(tensor.untyped_storage()), storage
        return Away(self, self._seen[address][1], tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def fetch(self, storage: _Storage) -> Tensor:
        """Return a storage on the device, as a row of numbers; the first of a micro-batch brings back the others."""
        if storage.of is not self._current:
            self._begin_backward(storage.of)
        if storage.device is None:
            storage.device = self.arenas.back(storage.host, storage.of)
        storage.device.wait()
        return storage.device.use()

    def _begin_backward(self, current: _MicroBatch) -> None:
        following = self._following(current)
        self._keep_here([current, following])
        self._settle()
        self._current, self._ahead = current, following
        for wanted in (current, following):
            self._bring_back(wanted)

    def _keep_here(self, wanted: list[_MicroBatch | None]) -> None:
        """Drop from the device what is of other micro-batches, and forget those whose backward is over."""
        self._under_way = [other for other in self._under_way if other.live()]
        for other in self._under_way:
            for storage in other.live() if other not in wanted else ():
                storage.device = None

    def _following(self, current: _MicroBatch) -> _MicroBatch | None:
        """Return whose backward probably comes next: in a pipeline the next forward's, else the one's before."""
        others = [other for other in self._under_way if other is not current and other.live()]
        later = [other for other in others if other.number > current.number]
        return later[0] if later else others[-1] if others else None

    def _bring_back(self, wanted: _MicroBatch | None) -> None:
        """Begin to copy back what a backward needs first: what was saved last."""
        for storage in reversed(wanted.live() if wanted is not None else []):
            if storage.device is None:
                storage.device = self.arenas.back(storage.host, storage.of)

    def _settle(self) -> None:
        """Wait until all that was to leave the device has left."""
        self.arenas.settle()
        self._leaving = [self._filling] if self._filling is not None else []
