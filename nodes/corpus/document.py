"""What every reader yields, and the two choices made while reading: a document's id and whether it is drawn."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True)
class RawDocument:
    """One document as its source has it: a title that is unique within the source, and its text.

    Documents of one `group` (the same sums in several forms) always go to the same split.
    """

    title: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a source's documents come from, for the data card; never a path on this machine."""

    name: str
    version: str


def document_id(text: str) -> str:
    """Return the id of a text: 16 hexadecimal digits of its blake2b hash."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def unit_hash(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on `parts`: the stage's only source of randomness."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def draw_rank(document: RawDocument, seed: int) -> float:
    """Return a document's rank in the draw from its source, which depends on its text alone."""
    return unit_hash(seed, "draw", document_id(document.text))


class Lowest:
    """The lowest ranks whose sizes together stay within `limit`; equal ranks are kept or dropped together.

    The lowest rank is always kept. A rank takes 16 bytes; ranks are cut to `limit` once they exceed twice that.
    """

    def __init__(self, limit: int) -> None:
        self.ceiling = 2.0
        self._limit = limit
        self._ranks, self._sizes = array("d"), array("q")
        self._total, self._settle_at = 0, 2 * limit

    def admits(self, rank: float) -> bool:
        """Return whether a rank may be kept, as far as is known; once it may not, no higher rank may."""
        return rank < self.ceiling

    def add(self, rank: float, size: int) -> bool:
        """Add a rank; return whether `ceiling` has come down."""
        self._ranks.append(rank)
        self._sizes.append(size)
        self._total += size
        if self._total <= self._settle_at:
            return False
        self.settle()
        self._settle_at = 2 * max(self._limit, self._total)
        return True

    def settle(self) -> None:
        """Lower `ceiling` to the lowest rank that must be dropped."""
        ranks, sizes = np.array(self._ranks), np.array(self._sizes)
        order = np.argsort(ranks, kind="stable")
        ranks, sizes = ranks[order], sizes[order]
        over = (np.cumsum(sizes) > self._limit) & (ranks > ranks[:1])
        if over.any():
            self.ceiling = float(ranks[int(np.argmax(over))])
        stay = ranks < self.ceiling
        self._ranks, self._sizes = array("d", ranks[stay].tobytes()), array("q", sizes[stay].tobytes())
        self._total = int(sizes[stay].sum())


def split_long(text: str, max_bytes: int, max_parts: int) -> Iterator[str]:
    """Cut a text into parts of at most `max_bytes`, at the strongest boundary available.

    Boundaries, strongest first: a line that starts a definition or follows a blank line, any line, a sentence, a word,
    a character. At most `max_parts` parts are yielded; the rest of the text is left out.
    """
    given = 0
    while text and given < max_parts:
        part, text = _cut(text, max_bytes)
        if part.strip():
            given += 1
            yield part.strip("\n")


_BOUNDARIES = ("\n\nclass ", "\n\ndef ", "\n\n\n", "\n\n", "\n", ". ", " ")


def _cut(text: str, max_bytes: int) -> tuple[str, str]:
    raw = text.encode()
    if len(raw) <= max_bytes:
        return text, ""
    head = raw[:max_bytes].decode(errors="ignore")
    for boundary in _BOUNDARIES:
        at = head.rfind(boundary)
        if at >= len(head) // 2:  # a boundary in the first half would leave parts needlessly short
            at += 1 if boundary == ". " else 0
            return text[:at], text[at:].lstrip("\n" if "\n" in boundary else " ")
    return head, text[len(head) :]
