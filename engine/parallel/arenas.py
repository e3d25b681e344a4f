"""Where tensors wait that the device has no room for: the host's memory, by copies beside the computation.

On a GPU a stream of its own copies to and from pinned memory. On a CPU host and device are one memory; `Accounting`
takes its place, in which copies are late on purpose and every byte is in one of two arenas, so that what a GPU would do
wrong without a word, a tensor used before its copy has arrived or more on the device than should be, is an error.
"""

import os
from collections import Counter, deque
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import UserError

MEMINFO = Path("/proc/meminfo")


def require_host_memory(needed: int, kind: str, what: str) -> None:
    """Refuse to keep `needed` bytes of each rank on this host, which `kind` of a layout's offload asks for."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    (line,) = [line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")]
    free = int(line.split()[1]) * 1024
    if needed * ranks > free:
        host = os.uname().nodename
        raise UserError(
            f"compute.yml: field layout.offload: {kind} keeps {needed / 2**30:.3g} GiB of {what} on the host for each "
            f"of its {ranks} ranks, and {host} has {free / 2**30:.3g} GiB free: take {kind} out of offload, or use "
            "more hosts, or ones with more memory."
        )


class EarlyUse(AssertionError):
    """A tensor was used before its copy was waited for."""


class ExcessResidency(AssertionError):
    """More owners have bytes on the device than may have."""


class Copy(Protocol):
    """A copy of a tensor that was begun; `tensor` is where it arrives."""

    tensor: Tensor

    def wait(self) -> None:
        """Let the computation that follows wait for the copy."""
        ...

    def use(self) -> Tensor:
        """Return the copy. Raises EarlyUse if it was not waited for."""
        ...


class Arenas(Protocol):
    """The device and the host. Copies are made one after the other, in the order in which they were begun."""

    def out(self, tensor: Tensor, owner: Hashable) -> Copy:
        """Begin to copy a contiguous tensor of the device to the host; the device's is freed once that is done."""
        ...

    def back(self, copy: Copy, owner: Hashable) -> Copy:
        """Begin to copy to the device what was, or will then be, copied to the host."""
        ...

    def settle(self) -> None:
        """Wait until all copies to the host are made."""
        ...


def arenas_of(device: torch.device, limit: int) -> Arenas:
    """Return the arenas for what is computed on `device`, where at most `limit` owners may have bytes at once."""
    return Streams(device) if device.type == "cuda" else Accounting(limit)


class Streams:
    """A GPU's memory and the host's pinned memory, with a stream for the copies."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self._last_out: torch.cuda.Event | None = None

    def out(self, tensor: Tensor, owner: Hashable) -> Copy:
        """Begin to copy to pinned memory; the allocator gives the device's memory away only after the copy."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
            self._last_out = self.stream.record_event()
        tensor.record_stream(self.stream)
        return _OnStream(host, self._last_out, self.device)

    def back(self, copy: Copy, owner: Hashable) -> Copy:
        """Begin to copy from pinned memory."""
        host = copy.tensor
        with torch.cuda.stream(self.stream):
            device = torch.empty(host.shape, dtype=host.dtype, device=self.device)
            device.copy_(host, non_blocking=True)
            return _OnStream(device, self.stream.record_event(), self.device)

    def settle(self) -> None:
        """Block until the last copy to the host is done."""
        if self._last_out is not None:
            self._last_out.synchronize()


class _OnStream:
    """A copy that is done when its event is."""

    def __init__(self, tensor: Tensor, event: torch.cuda.Event, device: torch.device) -> None:
        self.tensor, self._event, self._device, self._waited = tensor, event, device, False

    def wait(self) -> None:
        """Let the current stream wait for a copy on the device, or the host for one in its memory."""
        self._waited = True
        if not self.tensor.is_cuda:
            self._event.synchronize()
            return
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._event)
        self.tensor.record_stream(stream)

    def use(self) -> Tensor:
        """Return the copy, as `Copy` says."""
        if not self._waited:
            raise EarlyUse("a tensor is used before its copy has arrived")
        return self.tensor


class Accounting:
    """Two arenas in one memory. A copy is made only when it is waited for or `late` others were begun after it.

    Until then it holds 0xFF bytes, and its source stays where it is. `device` and `host` have the bytes of each owner;
    if more than `limit` owners have some on the device, ExcessResidency is raised.
    """

    def __init__(self, limit: int, late: int = 16) -> None:
        self.limit, self.late = limit, late
        self.device: Counter[Hashable] = Counter()
        self.host: Counter[Hashable] = Counter()
        self._queue: deque[_Late] = deque()

    def out(self, tensor: Tensor, owner: Hashable) -> Copy:
        """Count the tensor as one of the device until it is copied; its copy is one of the host."""
        self.device[owner] += tensor.nbytes
        return self._begin(_Late(self, tensor, owner, self.host, leaves=True))

    def back(self, copy: Copy, owner: Hashable) -> Copy:
        """Count the copy as one of the device from now on, until it is dropped."""
        return self._begin(_Late(self, copy.tensor, owner, self.device, leaves=False))

    def settle(self) -> None:
        """Make all copies that were begun."""
        while self._queue:
            self._queue.popleft().make()

    def make_until(self, copy: "_Late") -> None:
        """Make the copies that were begun, up to this one."""
        while not copy.made:
            self._queue.popleft().make()

    def _begin(self, copy: "_Late") -> Copy:
        self._queue.append(copy)
        while len(self._queue) > self.late:
            self._queue.popleft().make()
        resident = [owner for owner, n in self.device.items() if n]
        if len(resident) > self.limit:
            raise ExcessResidency(f"{len(resident)} have bytes on the device, and {self.limit} may: {resident}")
        return copy


class _Late:
    """A copy that is made later, whose bytes count in `arena` until it is dropped.

    If the source `leaves` the device, its bytes count there until the copy is made.
    """

    def __init__(
        self, arenas: Accounting, source: Tensor, owner: Hashable, arena: "Counter[Hashable]", *, leaves: bool
    ) -> None:
        self._arenas, self._source, self._owner, self._arena, self._leaves = arenas, source, owner, arena, leaves
        self.made = False
        self.tensor = torch.empty_like(source)
        self.tensor.view(torch.uint8).fill_(255)
        arena[owner] += source.nbytes

    def make(self) -> None:
        """Copy, and let go of the source."""
        self.tensor.copy_(self._source)
        self.made = True
        del self._source
        if self._leaves:
            self._arenas.device[self._owner] -= self.tensor.nbytes

    def wait(self) -> None:
        """Make the copy, and those that were begun before it."""
        self._arenas.make_until(self)

    def use(self) -> Tensor:
        """Return the copy, as `Copy` says."""
        if not self.made:
            raise EarlyUse("a tensor is used before its copy has arrived")
        return self.tensor

    def __del__(self) -> None:
        self._arena[self._owner] -= self.tensor.nbytes
