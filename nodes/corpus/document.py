"""What every reader gives, and the two choices made while reading: an identity and a share."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True)
class RawDocument:
    """One document as its source has it: a title that names it within the source, and its text.

    Documents of one `group` (the same sums in several forms) never straddle splits.
    """

    title: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a source's documents come from, for the data card; no path of this machine."""

    name: str
    version: str


def document_id(text: str) -> str:
    """Identity of a text: 16 hexadecimal digits of its blake2b hash."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone: the stage's only source of chance."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def draw_rank(document: RawDocument, seed: int) -> float:
    """A document's place in the draw from its source, by its text alone."""
    return unit_hash(seed, "draw", document_id(document.text))


class Lowest:
    """The lowest ranks whose sizes together stay within `limit`; equal ranks stay or go together, the lowest stays.

    Of each rank that may still stay 16 bytes are held; they are cut to `limit` whenever they have grown to twice of it.
    """

    def __init__(self, limit: int) -> None:
        self.ceiling = 2.0
        self._limit = limit
        self._ranks, self._sizes = array("d"), array("q")
        self._total, self._settle_at = 0, 2 * limit

    def admits(self, rank: float) -> bool:
        """Whether a rank may stay as far as is known; once it may not, no rank above it may."""
        return rank < self.ceiling

    def add(self, rank: float, size: int) -> bool:
        """Take a rank in; return whether `ceiling` has come down since."""
        self._ranks.append(rank)
        self._sizes.append(size)
        self._total += size
        if self._total <= self._settle_at:
            return False
        self.settle()
        self._settle_at = 2 * max(self._limit, self._total)
        return True

    def settle(self) -> None:
        """Bring `ceiling` down to the least rank that must go."""
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
    """Cut a text into parts of at most `max_bytes` at the strongest boundary at hand.

    Boundaries, strongest first: a line that starts a definition or follows a blank line, any line, a sentence, a
    word, a character. At most `max_parts` parts are given; what follows them is left out.
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
