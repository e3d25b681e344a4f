"""The device of this process: where weights, buffers, caches, batches and all that is computed from them live.

A compute class says `device: cpu` or `cuda` (conf/<profile>/compute.yml). Whoever runs a node, the driver or a rank,
sets it for the node; everything below asks `device()`, makes its tensors there and never chooses a device itself.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from engine.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

CPU: Final = "cpu"
CUDA: Final = "cuda"
KINDS: Final = (CPU, CUDA)

_process = {"kind": CPU}
"""The state of this process, of all its threads: the kind of its device."""


def local_rank() -> int:
    """Return this process's number among the ranks of its machine, as torchrun sets it; 0 for a single process."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def device() -> "torch.device":
    """Return the device of this process: the CPU, or the GPU whose number is the process's local rank."""
    import torch

    kind = _process["kind"]
    return torch.device(kind, local_rank()) if kind == CUDA else torch.device(kind)


@contextmanager
def working_on(kind: str) -> Iterator[None]:
    """Make `kind` this process's kind of device while the context lasts."""
    before, _process["kind"] = _process["kind"], kind
    try:
        if kind == CUDA:
            _prepare_cuda()
        yield
    finally:
        _process["kind"] = before


def _prepare_cuda() -> None:
    """Choose this rank's GPU, and the workspace with which cuBLAS computes the same bits each time."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.cuda.set_device(local_rank())


def require(kind: str, processes: int, node: str) -> None:
    """Refuse a kind of device that this machine has not got for each of `processes` ranks.

    Raises UserError naming the file and the field, of the compute class of `node`, that ask for it.
    """
    if kind != CUDA:
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count >= processes:
        return
    seen = f"{count} of them" if count else "none"
    reason = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
    raise UserError(
        f"compute.yml: class of node {node}, field device: cuda needs {processes} GPU{'s' * (processes > 1)} on "
        f"{os.uname().nodename}, and torch sees {seen}{reason}; set device: cpu, or run where there are enough."
    )


def placed(values: "np.ndarray[Any, np.dtype[Any]] | Sequence[Any] | float", on: "torch.device") -> "torch.Tensor":
    """Return numbers that the host has made as a tensor on a device, of NumPy's type for them (int64, float64, bool).

    On the CPU an array's memory is shared.
    """
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(values)).to(on)
