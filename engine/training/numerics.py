"""Settings of torch under which the same step gives the same bits."""

import ctypes
import platform

import torch

from engine.device import CUDA
from engine.origin import processor
from kernels.choice import triton_version

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's constants (malloc.h)."""


def settle(threads: int) -> None:
    """Fix what decides the bits of a computation: thread count, deterministic algorithms, denormals as zero.

    Also make glibc keep the memory of freed tensors for the next step.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # its public name imports the compiler: 2 s, unused
    # torch gives its module this property through a class that mypy does not see
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, up to 2 GiB, instead of returning it and faulting it in again at each step.

    A step of 512 tokens of a small model takes 15 to 20 % less CPU time. Without glibc this does nothing.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def fingerprint(threads: int, dtype: str, device: str = "cpu", *, fp8_storage: bool = False) -> dict[str, str | int]:
    """Return the settings that must be equal for a resumed run to end in the bits of an uninterrupted one.

    `device` is a kind of device; a GPU is named by its model, and its CUDA and Triton, whose kernels it runs, count as
    well. With `fp8_storage` gradients have another error; recomputation and offload, which leave all bits alone, are
    not recorded.
    """
    cuda = {"cuda": str(torch.version.cuda), "triton": triton_version() or "none"} if device == CUDA else {}
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
        "device": torch.cuda.get_device_name() if device == CUDA else device,
        **cuda,
        "threads": threads,
        "dtype": dtype,
        **({"fp8_storage": "on"} if fp8_storage else {}),
    }


def autocast(dtype: str, device: str = "cpu") -> torch.autocast:
    """Return the context of a forward: bf16 if `dtype` is "bfloat16", fp32 if it is "float32"."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
