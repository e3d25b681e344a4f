"""Exchange the rows that a cut of DeepSpeed's vector divides, so that each rank has whole rows of its weights.

Checkpoints hold rows (engine/parallel/flat.py), DeepSpeed's partitions hold numbers.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from engine.parallel import data
from engine.parallel.flat import Flat


class WholeRows:
    """The rows of this rank among those of a `flat` vector's weights. All ranks call the methods together."""

    def __init__(self, flat: Flat) -> None:
        self.flat, self.rank = flat, data.ranks().rank
        self.base = self.rank * flat.size
        self.missing = [tail for tail in flat.tails() if tail.owner == self.rank]
        self.held = [tail for tail in flat.tails() if tail.holder == self.rank]

    def taken_from(self, part: Tensor) -> dict[str, Tensor]:
        """Return this rank's rows of each weight in the vector whose partition here is `part`; views where they can be.

        A weight of which the rank has no row is left out.
        """
        held = {tail.start: part[tail.start - self.base : tail.stop - self.base] for tail in self.held}
        ends = self._exchanged(held, part, to_owners=True)
        out = {}
        for name, shape in self.flat.shapes.items():
            place = self.flat.place(name, self.rank)
            if place:
                pieces = [part[place.start - self.base : place.stop - self.base]]
                pieces += [ends[tail.start] for tail in self.missing if tail.start in place]
                numbers = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
                out[name] = numbers.view(-1, *shape[1:])
        return out

    def put_together(self, rows: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Return this rank's partition of the vector, on the device of `like`, given what `taken_from` returns."""
        part = torch.zeros_like(like)
        sent: dict[int, Tensor] = {}
        for name, of_weight in rows.items():
            place, numbers = self.flat.place(name, self.rank), of_weight.reshape(-1).to(part.device)
            inside = min(place.stop, self.base + self.flat.size) - place.start
            part[place.start - self.base :][:inside] = numbers[:inside]
            tails = [tail for tail in self.missing if tail.start in place]
            sent |= {tail.start: numbers[tail.start - place.start : tail.stop - place.start] for tail in tails}
        for start, numbers in self._exchanged(sent, part, to_owners=False).items():
            part[start - self.base :][: len(numbers)] = numbers
        return part

    def _exchanged(self, own: Mapping[int, Tensor], like: Tensor, to_owners: bool) -> dict[int, Tensor]:
        """Send each end of a row, by its place, to its owner, or else to its holder; return those that came here."""
        received: dict[int, Tensor] = {}
        for tail in self.flat.tails():
            source, target = (tail.holder, tail.owner) if to_owners else (tail.owner, tail.holder)
            if source == self.rank:
                data.together(partial(dist.send, own[tail.start].contiguous(), target))
            elif target == self.rank:
                received[tail.start] = like.new_empty(tail.stop - tail.start)
                data.together(partial(dist.recv, received[tail.start], source))
        return received
