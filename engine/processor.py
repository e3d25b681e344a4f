"""Which processor this is."""

import platform
from contextlib import suppress


def processor() -> str:
    """The CPU's model: two of one capability may still choose other kernels, by their caches."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
