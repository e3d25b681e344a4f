"""Time competitors fairly: in turns, so that a busy moment affects all; report medians."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

BRIEF = 1e-2
"""Candidates faster than this many seconds are repeated within a round up to it."""


def interleaved(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return seconds of each candidate in each of `repeats` rounds; all run in every round, in rotating order.

    CPU time of this process where torch has one thread, else wall time.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    inner = {}
    for name, candidate in candidates.items():
        candidate()
        start = clock()
        candidate()
        inner[name] = max(1, round(BRIEF / max(clock() - start, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats):
        order = list(candidates.items())
        for name, candidate in order[turn % len(order) :] + order[: turn % len(order)]:
            start = clock()
            for _ in range(inner[name]):
                candidate()
            seconds[name].append((clock() - start) / inner[name])
    return seconds


def medians(repeats: int, candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each candidate; see `interleaved`."""
    return {name: median(times) for name, times in interleaved(candidates, repeats).items()}


def fastest(measured: Mapping[str, float], prefix: str) -> tuple[str, float]:
    """Return the fastest of the candidates whose name begins with `prefix`."""
    name = min((name for name in measured if name.startswith(prefix)), key=measured.__getitem__)
    return name, measured[name]
