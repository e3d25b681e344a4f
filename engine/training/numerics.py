"""Settings of torch under which the same step gives the same bits."""

import platform

import torch


def settle(threads: int) -> None:
    """Fix what decides the bits of a computation: thread count, deterministic algorithms, denormals as zero."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)


def fingerprint(threads: int, dtype: str) -> dict[str, str | int]:
    """What must be equal for a resumed run to end in the bits of an uninterrupted one."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "dtype": dtype,
    }


def autocast(dtype: str, device: str = "cpu") -> torch.autocast:
    """The context of a forward: bf16 where `dtype` is "bfloat16", fp32 where it is "float32"."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
