"""Which rows of which weights are in a rank's part of a flat vector of all weights: pure arithmetic, without torch.

DeepSpeed's ZeRO lays all weights one after the other into one vector and cuts it into equal partitions, one a rank,
wherever that falls. A checkpoint holds parts of weights along axis 0 instead, whatever the number of ranks. So a row
belongs to the rank in whose partition it begins, and the end of a row that a cut divides is sent to that rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from engine.parallel.placement import Ranges


@dataclass(frozen=True)
class Tail:
    """Numbers of a row that are in the partition of rank `holder`, while the row is rank `owner`'s."""

    holder: int
    owner: int
    start: int
    stop: int


class Flat:
    """The vector of weights of these shapes, by name in their order, cut into partitions of `size` numbers."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], size: int, ranks: int) -> None:
        self.shapes, self.size, self.ranks = dict(shapes), size, ranks
        lengths = [prod(shape) for shape in shapes.values()]
        self.starts = dict(zip(shapes, accumulate(lengths[:-1], initial=0)))

    def ranges(self, name: str) -> Ranges:
        """Return which rows of a weight each rank has.

        >>> Flat({"a": (3, 4), "b": (4,)}, 8, 2).ranges("a").offsets
        (0, 2, 3)
        """
        start, row, rows = self.starts[name], self._row(name), self.shapes[name][0]
        cuts = (-((start - rank * self.size) // row) for rank in range(self.ranks))  # rounded up
        return Ranges(("dp",), (*(min(max(cut, 0), rows) for cut in cuts), rows))

    def rows(self, name: str, rank: int) -> range:
        """Return a rank's rows of a weight."""
        offsets = self.ranges(name).offsets
        return range(offsets[rank], offsets[rank + 1])

    def place(self, name: str, rank: int) -> range:
        """Return where in the vector a rank's rows of a weight are."""
        rows, row = self.rows(name, rank), self._row(name)
        return range(self.starts[name] + rows.start * row, self.starts[name] + rows.stop * row)

    def tails(self) -> Iterator[Tail]:
        """Yield the ends of the rows that the cuts divide, in the order of the vector.

        >>> list(Flat({"a": (2, 5), "b": (6,)}, 8, 2).tails())
        [Tail(holder=1, owner=0, start=8, stop=10)]
        """
        for holder in range(1, self.ranks):
            cut = holder * self.size
            for name, start in self.starts.items():
                row = self._row(name)
                if start < cut < start + prod(self.shapes[name]) and (cut - start) % row:
                    begin = cut - (cut - start) % row
                    yield Tail(holder, begin // self.size, cut, min(begin + row, cut + self.size))

    def _row(self, name: str) -> int:
        return prod(self.shapes[name][1:])
