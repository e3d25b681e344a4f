"""The one place where the host reads what a device computed.

Some numbers decide what Python does next: a stop token, a count, a guard's loss. Reading one makes the host wait until
the device has done all its work, so each such place goes through `to_host`, which waits once for all tensors of a call.
Everything else (`.item()`, `float(tensor)`, `.tolist()`, `nonzero`, boolean indexing) would read a device unseen, and
tests/placement refuses it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Host = np.ndarray[Any, np.dtype[Any]]


def to_host(*tensors: Tensor) -> list[Host]:
    """Return the values of `tensors` as NumPy arrays, without gradient, after one wait for their device.

    An array of a tensor on the CPU shares its memory. Types that NumPy lacks (bf16) raise TypeError.
    """
    return copied([tensor.detach() for tensor in tensors])


def copied(tensors: list[Tensor]) -> list[Host]:
    """Return the values of tensors without gradient: `to_host` without its tests' seam."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.current_stream().synchronize()
    return [tensor.numpy() for tensor in copies]
