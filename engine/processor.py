"""Identify the processor of this machine."""

import platform
from contextlib import suppress


def processor() -> str:
    """Return the CPU's model: two CPUs of one capability may still choose different kernels because of their caches."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
