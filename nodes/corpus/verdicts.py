"""The decision on each part, in a few numbers per part, in the order of the spool, which holds the texts."""

from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain

import numpy as np

from nodes.corpus.document import unit_hash
from nodes.corpus.minhash import Pairs, clusters
from nodes.corpus.schema import Parameters

SPLITS = ("train", "validation", "test")
NEAR_DUPLICATE = "near_duplicate"
_STAYS = 0


class Verdicts:
    """Why each part is refused, or the split in which it stays.

    A part takes one byte; a part that is no exact duplicate and breaks no limit (`kept`) takes about 60 more.
    """

    def __init__(self, sources: list[str]) -> None:
        self._sources = {name: number for number, name in enumerate(sources)}
        self._names = [""]  # of reasons; a part's code is the index of its reason
        self._codes = bytearray()
        self._kept_ids, self._kept_parents, self._kept_sizes = array("Q"), array("Q"), array("q")
        self._kept_sources = array("H")
        self._duplicate_of = np.empty(0, np.int64)
        self._splits = np.empty(0, np.uint8)
        self.refused: Counter[tuple[str, str]] = Counter()
        """The number of refused parts, by source and reason."""

    def add(self, id_: str, source: str, parent: str, size: int, reason: str | None) -> None:
        """Add the decision on the next part; `size` is its text's size in bytes."""
        if reason is not None:
            if reason not in self._names:
                self._names.append(reason)
            self._codes.append(self._names.index(reason))
            self.refused[source, reason] += 1
            return
        self._codes.append(_STAYS)
        self._kept_ids.append(int(id_, 16))
        self._kept_parents.append(int.from_bytes(blake2b(parent.encode(), digest_size=8).digest(), "big"))
        self._kept_sizes.append(size)
        self._kept_sources.append(self._sources[source])

    def settle(self, p: Parameters, pairs: Pairs) -> None:
        """Decide on near-duplicates and splits; similar documents and parts of one document get the same split."""
        kept = len(self._kept_ids)
        self._duplicate_of = np.full(kept, -1, np.int64)
        for i, j, similarity in zip(*pairs):  # sorted, so the document with the lower id of a pair stays
            alike = similarity >= p.near_duplicates.duplicate_similarity
            if alike and self._duplicate_of[i] < 0 and self._duplicate_of[j] < 0:
                self._duplicate_of[j] = i
        _, first, inverse = np.unique(np.array(self._kept_parents), return_index=True, return_inverse=True)
        siblings = zip(first[inverse].tolist(), range(kept))
        roots = clusters(kept, chain(zip(pairs.first.tolist(), pairs.second.tolist()), siblings))
        self._splits = np.fromiter((_split_of(p, self._id(root)) for root in roots), np.uint8, kept)
        names = list(self._sources)
        for at in np.flatnonzero(self._duplicate_of >= 0).tolist():
            self.refused[names[self._kept_sources[at]], NEAR_DUPLICATE] += 1

    def sizes(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return the number of documents that stay and their bytes, by source and split."""
        stays = self._duplicate_of < 0
        cell = np.array(self._kept_sources, np.int64) * len(SPLITS) + self._splits
        shape = len(self._sources) * len(SPLITS)
        documents = np.bincount(cell[stays], minlength=shape)
        sizes = np.zeros(shape, np.int64)
        np.add.at(sizes, cell[stays], np.array(self._kept_sizes)[stays])
        cells = [(source, split) for source in self._sources for split in SPLITS]
        return {cell: (int(count), int(size)) for cell, count, size in zip(cells, documents, sizes)}

    def reasons(self) -> Iterator[str]:
        """Yield why each part is refused, in the spool's order; "" for a part that stays."""
        at = -1
        for code in self._codes:
            at += code == _STAYS
            original = self._duplicate_of[at] if code == _STAYS else -1
            yield f"{NEAR_DUPLICATE} of {self._id(original)}" if original >= 0 else self._names[code]

    def splits(self) -> Iterator[str]:
        """Yield the split of each document that stays, in the spool's order."""
        for split in self._splits[self._duplicate_of < 0]:
            yield SPLITS[split]

    def _id(self, kept: int) -> str:
        return f"{self._kept_ids[kept]:016x}"


def _split_of(p: Parameters, group: str) -> int:
    """Return the index in SPLITS of the split that a group's hash gives."""
    at = unit_hash(p.seed, "split", group)
    if at < p.test_share:
        return SPLITS.index("test")
    return SPLITS.index("validation" if at < p.test_share + p.validation_share else "train")
