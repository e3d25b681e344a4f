"""Timing competitors fairly: in turns, by CPU time, medians."""

import statistics
import time
from collections.abc import Callable, Mapping


def medians(repeats: int, competitors: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each competitor over `repeats` rounds in which all take their turn, after one unread.

    CPU time of all threads: what other work on the machine takes does not count, though it may slow a processor down.
    """
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for turn in range(repeats + 1):
        for name, competitor in competitors.items():
            begun = time.process_time()
            competitor()
            if turn:
                seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def fastest(measured: dict[str, float], prefix: str) -> tuple[str, float]:
    """The fastest of the competitors whose name begins with `prefix`."""
    name = min((name for name in measured if name.startswith(prefix)), key=measured.__getitem__)
    return name, measured[name]
