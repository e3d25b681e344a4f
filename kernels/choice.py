"""Which form of an op runs: Triton's on a CUDA device, torch's everywhere else.

Where Triton's form cannot run on a GPU (a width that no configuration covers, Triton missing or too old), torch's form
takes its place and the log says so once for each op and reason; under `strict` the op is refused instead, so that a
cluster never computes slowly in silence.
"""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OLDEST = (3, 6)
"""The oldest Triton that the kernels are written for."""
INTERPRETED: set[str] = set()
"""Further kinds of device whose tensors go to Triton: a proof adds the CPU under Triton's interpreter."""

_log = logging.getLogger(__name__)
_strict = {"on": False}
_mentioned: set[str] = set()


class KernelRefused(ValueError):
    """An op that must run as a Triton kernel and cannot; the sentence names op, reason and remedy."""


def on_gpu(x: "Tensor") -> bool:
    """Return whether Triton's form of an op is the one for `x`."""
    return x.is_cuda or (bool(INTERPRETED) and x.device.type in INTERPRETED)


def has_triton(op: str) -> bool:
    """Return whether Triton can be imported here; if not, `op` falls back or is refused."""
    return accepted(op, missing())


def accepted(op: str, refusal: str) -> bool:
    """Return whether `refusal`, the reason why Triton's form of `op` does not run, is empty.

    Raises KernelRefused under `strict`; else the log has the sentence once.
    """
    if not refusal:
        return True
    sentence = f"{op} does not run as a Triton kernel: {refusal}"
    if _strict["on"]:
        raise KernelRefused(f"{sentence}; or set strict_kernels: false in compute.yml, for torch's slower form")
    if sentence not in _mentioned:
        _mentioned.add(sentence)
        _log.warning("%s; torch's form computes in its place", sentence)
    return False


@contextmanager
def strict(on: bool = True) -> Iterator[None]:
    """Refuse to fall back from Triton's forms on a GPU while the context lasts; it holds for all threads."""
    before, _strict["on"] = _strict["on"], on
    try:
        yield
    finally:
        _strict["on"] = before


def triton_version() -> str:
    """Return Triton's version, which decides the bits that a GPU computes; "" where it is not installed."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def missing() -> str:
    """Return why Triton cannot be used here, with the remedy; "" if it can. It does not import Triton."""
    remedy = "pip install -r requirements/kernels.txt"
    version = triton_version()
    if not version:
        return f"Triton is not installed; {remedy}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"Triton is {version}, older than {'.'.join(map(str, OLDEST))}; {remedy}"
    return ""
