"""The sources of the training stages: windows of packed text; fine-tuning examples with natural text beside them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.parallel.data import Ranks
from engine.text.shards import TokenStream
from engine.training.batches import Batch, own
from engine.training.examples import Encoded, places
from engine.training.natural import NaturalText
from engine.training.padded import pack_group, pad


@dataclass(frozen=True)
class Windows:
    """`batch_size` windows of `length` + 1 tokens a step, as `ids` (B, T+1); the loss is their mean."""

    stream: TokenStream
    batch_size: int
    length: int
    seed: int

    @property
    def rows_per_step(self) -> int:
        """The windows of a step."""
        return self.batch_size

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return this rank's windows of a step."""
        rows = own(self.batch_size, ranks)
        return {"ids": torch.from_numpy(self.stream.batch(step, self.batch_size, self.length, self.seed, rows=rows))}


class Examples:
    """A fixed number of examples of each kind a step, one padded group per kind, and natural text if there is any.

    A step's examples are a pure function of (seed, step): each kind is used in epochs, every epoch in its own order
    keyed by (seed, kind, epoch). Kinds are padded separately, so that short sums are not padded to the length of long
    dialogues. All ranks know which examples a step has and how many tokens of each count; the tokens themselves are
    read by the rank whose row they are.
    """

    rows_per_step = None

    def __init__(self, encoded: Encoded, sizes: Mapping[str, int], seed: int, natural: NaturalText | None) -> None:
        self.encoded, self.seed, self.natural = encoded, seed, natural
        self.sizes = {kind: size for kind, size in sizes.items() if size > 0}
        self.counted = {kind: [sum(mask[1:]) for _, mask in encoded.by_kind[kind]] for kind in self.sizes}
        """The tokens of each example that are predicted; its first one has no past."""

    def rows(self, step: int, ranks: Ranks) -> Batch:
        """Return this rank's examples of a step, of every kind, with the totals of the step."""
        batch: dict[str, torch.Tensor] = {}
        for kind, size in self.sizes.items():
            examples, counted = self.encoded.by_kind[kind], self.counted[kind]
            drawn = places(len(examples), kind, step, size, self.seed)
            group = pad([examples[drawn[row]] for row in own(size, ranks)])
            batch |= pack_group(kind, group, sum(counted[place] for place in drawn))
        return {**batch, **(self.natural.rows(step, ranks) if self.natural else {})}
