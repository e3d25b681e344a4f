"""What every reader gives, and the two choices made while reading: an identity and a share."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b


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


def draw(documents: Iterable[RawDocument], max_bytes: int, seed: int) -> list[RawDocument]:
    """Keep the documents with the lowest hashes whose texts together stay within `max_bytes`.

    The result depends on the set of documents, not on their order, and memory on `max_bytes`, not on the
    source: a heap holds the lowest hashes so far, and once a hash has been turned out none above it comes in.
    """
    heap: list[tuple[float, str, str, str]] = []  # negated hash first: the highest hash on top
    total, lowest, ceiling = 0, 1.0, 1.0
    for document in documents:
        rank = unit_hash(seed, "draw", document_id(document.text))
        if rank >= ceiling:
            continue
        heapq.heappush(heap, (-rank, document.title, document.text, document.group))
        total, lowest = total + len(document.text.encode()), min(lowest, rank)
        while total > max_bytes and heap[0][0] != -lowest:
            ceiling = -heap[0][0]
            while heap[0][0] == -ceiling:  # equal texts go together
                total -= len(heapq.heappop(heap)[2].encode())
    return [RawDocument(*entry) for _, *entry in sorted(heap, key=lambda one: (-one[0], *one[1:]))]


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
