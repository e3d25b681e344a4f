"""The device of this process: where weights, buffers, caches, batches and all that is computed from them live.

A compute class says `device: cpu` or `cuda` (conf/<profile>/compute.yml). Whoever runs a node, the driver or a rank,
sets it for the node; everything below asks `device()`, makes its tensors there and never chooses a device itself.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from engine.errors import UserError
from kernels import choice

if TYPE_CHECKING:
    import numpy as np
    import torch

CPU: Final = "cpu"
CUDA: Final = "cuda"
KINDS: Final = (CPU, CUDA)


@dataclass(frozen=True)
class _Place:
    """A kind of device, and the number of the GPU if it is cuda."""

    kind: str = CPU
    number: int = 0


_process = {"place": _Place()}
"""The state of this process, of all its threads: where it works."""


def device() -> "torch.device":
    """Return the device of this process: the CPU, or its GPU."""
    import torch

    place = _process["place"]
    return torch.device(place.kind, place.number) if place.kind == CUDA else torch.device(place.kind)


@contextmanager
def working_on(kind: str, number: int = 0, strict: bool = False) -> Iterator[None]:
    """Make `kind` this process's kind of device while the context lasts; `number` is that of its GPU.

    `strict`: an op that has a Triton kernel and cannot run as one on the GPU is refused by a UserError.

    The number is given, and never taken from the environment: LOCAL_RANK means something only in a process that
    torchrun started, and a shell or a batch system may have left one in that of any other.
    """
    before, _process["place"] = _process["place"], _Place(kind, number)
    try:
        if kind == CUDA:
            _prepare_cuda(number)
        with choice.strict(strict):
            yield
    except choice.KernelRefused as error:
        raise UserError(str(error)) from error
    finally:
        _process["place"] = before


def _prepare_cuda(number: int) -> None:
    """Choose this process's GPU, and the workspace with which cuBLAS computes the same bits each time."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.cuda.set_device(number)


def require(kind: str, processes: int, place: str, *, several: bool) -> None:
    """Refuse a kind of device that this machine has not got for each of `processes` ranks.

    Refuse also GPUs of `several` ranks, here or on other machines, where torch has no NCCL. Raises UserError; `place`,
    the file and the compute class in it that ask for the device, begins the sentence.
    """
    if kind != CUDA:
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count >= processes:
        if several and not torch.distributed.is_nccl_available():
            raise UserError(
                f"{place}, field device: several ranks on GPUs need NCCL, and torch {torch.__version__} is built "
                "without it; install PyPI's build of torch for Linux, or use one rank."
            )
        return
    seen = f"{count} of them" if count else "none"
    reason = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
    raise UserError(
        f"{place}, field device: cuda needs {processes} GPU{'s' * (processes > 1)} on "
        f"{os.uname().nodename}, and torch sees {seen}{reason}; set device: cpu, or run where there are enough."
    )


def placed(values: "np.ndarray[Any, np.dtype[Any]] | Sequence[Any] | float", on: "torch.device") -> "torch.Tensor":
    """Return numbers that the host has made as a tensor on a device, of NumPy's type for them (int64, float64, bool).

    On the CPU an array's memory is shared.
    """
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(values)).to(on)
