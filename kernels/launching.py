"""Start Triton kernels in one place, so that a proof can see the arguments and the options of each start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Grid = tuple[int, ...]


def _start(kernel: Any, grid: Grid, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    kernel[grid](*arguments, **options)


_state: dict[str, Callable[[Any, Grid, tuple[Any, ...], dict[str, Any]], None]] = {"start": _start}


def launch(kernel: Any, grid: Grid, *arguments: Any, **options: Any) -> None:
    """Start `kernel` on `grid` (`options` are its constants, `num_warps`, `num_stages`); nothing on an empty one."""
    if all(grid):
        _state["start"](kernel, grid, arguments, options)


@dataclass(frozen=True)
class Launch:
    """One start of a kernel, as it was asked for."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Record launches instead of starting kernels while the context lasts."""
    launches: list[Launch] = []
    before = _state["start"]
    _state["start"] = lambda kernel, _, arguments, options: launches.append(Launch(kernel, arguments, options))
    try:
        yield launches
    finally:
        _state["start"] = before
