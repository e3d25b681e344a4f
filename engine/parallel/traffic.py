"""The bytes that this process gives to the collectives of a layout, by kind of message, while somebody counts them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SUM = "sum of gradients"
"""The kind of message of plain data parallelism. What crosses is counted as a ring's: 2·(n − 1)/n over n ranks."""
ROWS = ("expert rows out", "expert rows back")
GATES = ("expert gates out", "expert gates back")
COUNTS = "expert counts"
OUTPUTS, GRADIENTS_BACK = "stage outputs", "stage gradients"
GRADIENTS, WEIGHTS = "gradients to owners", "weights from owners"
"""The other kinds: of expert parallelism, of a pipeline, and of ZeRO. Plans (engine/scale) have the same names."""


@dataclass(frozen=True)
class Traffic:
    """Bytes by kind of message: `given` to the collectives in all, and those of them that `crossed` to another rank."""

    given: Counter[str] = field(default_factory=Counter)
    crossed: Counter[str] = field(default_factory=Counter)


_counting: list[Traffic] = []


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Yield a record of what this process, in all of its threads, sends while the context lasts."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


def sent(kind: str, given: int, crossed: int) -> None:
    """Count a message of `kind`: its bytes, and those of them for other ranks."""
    for traffic in _counting:
        traffic.given[kind] += given
        traffic.crossed[kind] += crossed
