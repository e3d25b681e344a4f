"""Cut a document into what a writer handles: pieces at natural boundaries, each made of units of one kind.

Chunk-wise autoregressive rewriting (arXiv 2507.20534, figure 4): a long document is cut into pieces; each is rewritten
given the excerpt around it and the rewrites so far, and the rewrites are joined.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol, TypeVar

from nodes.rephrase.schema import Perspective, Style
from nodes.rephrase.words import sentences

Kind = Literal["record", "sentence", "problem", "sum", "verbatim"]
T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """The smallest unit of a writer: a `Field: value` line, a sentence, a worked problem, a sum, or unchanged text."""

    kind: Kind
    text: str
    paragraph: int


@dataclass(frozen=True)
class Piece:
    """One piece to rewrite, with its context for the writer."""

    units: tuple[Unit, ...]
    title: str
    excerpt: str
    previous: tuple[str, ...]
    style: Style
    perspective: Perspective
    key: str  # the key of every choice of the template engine

    @property
    def text(self) -> str:
        """The piece as text."""
        return join(self.units)

    @property
    def subject(self) -> str:
        """The subject of the document: its title up to the colon, without remarks in brackets after it."""
        return re.sub(r"( \([^()]*\))+$", "", self.title).split(":")[0].strip()


class Writer(Protocol):
    """A writer that rewrites one piece; `generator` is its name in the tables."""

    generator: str

    def rewrite(self, piece: Piece) -> str:
        """Return the piece in its style and perspective."""
        ...


def unit_hash(*key: object) -> float:
    """Return a number in [0, 1) that depends only on `key`: the stage's only source of randomness."""
    digest = blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def choose(options: "tuple[T, ...] | list[T]", *key: object) -> T:
    """Return one of `options`, chosen by the hash of `key`."""
    return options[int(unit_hash(*key) * len(options))]


def join(units: "tuple[Unit, ...] | list[Unit]") -> str:
    """Join units to text again: sentences of one paragraph on one line, everything else on separate lines."""
    lines: list[str] = []
    before: Unit | None = None
    for unit in units:
        if before and unit.kind == "sentence" and before.kind != "verbatim" and unit.paragraph == before.paragraph:
            lines[-1] += f" {unit.text}"
        else:
            if before and unit.paragraph != before.paragraph:
                lines.append("")
            lines.append(unit.text)
        before = unit
    return "\n".join(lines)


def pieces_of(text: str, chunk_bytes: int) -> list[tuple[Unit, ...]]:
    """Cut a document between units into pieces of at most `chunk_bytes`, except where one unit is longer."""
    pieces: list[list[Unit]] = [[]]
    size = 0
    for unit in units_of(text):
        length = len(unit.text.encode()) + 1
        if pieces[-1] and size + length > chunk_bytes:
            pieces.append([])
            size = 0
        pieces[-1].append(unit)
        size += length
    return [tuple(piece) for piece in pieces if piece]


def prose_share(text: str) -> float:
    """Return the share of a document, by characters, that is running text: sentences, and fields that hold one."""
    units = units_of(text)
    prose = sum(len(unit.text) for unit in units if unit.kind == "sentence" or unit.text.endswith("."))
    return prose / max(sum(len(unit.text) for unit in units), 1)


_RECORD = re.compile(r"[A-Za-z(][^:\n?!]{1,90}: \S")
_HEADER = re.compile(r"[^\n:]{1,120} - [A-Z][^\n:.]{1,60}")
_SUM = re.compile(r"\d[\d +\-]*(?:=|: \d)")


def units_of(text: str) -> list[Unit]:
    """Return a document's units, read from its text alone."""
    units: list[Unit] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if paragraph.startswith("Problem: "):
            units.append(Unit("problem", paragraph, number))
        elif _HEADER.fullmatch(paragraph.strip()):
            continue  # "Chile - Geography": the title says the same
        else:
            units += _paragraph(paragraph, number)
    return units


def _paragraph(paragraph: str, number: int) -> list[Unit]:
    lines = [line for line in paragraph.split("\n") if line.strip()]
    if all(_SUM.match(line) for line in lines):
        return [Unit("sum", line, number) for line in lines]
    if sum(bool(_RECORD.match(line)) for line in lines) >= 0.8 * len(lines) and not _CALL.search(paragraph):
        return [unit for line in lines for unit in _record(line, number)]
    if not _is_prose(paragraph, 6):
        return [Unit("verbatim", paragraph.strip("\n"), number)]
    unwrapped = re.sub(r"\s+", " ", paragraph).strip()
    return [Unit("sentence", sentence, number) for sentence in sentences(unwrapped)]


def _record(line: str, number: int) -> list[Unit]:
    """Return a field line as units; sentences after the first one of its value are running text."""
    if not _RECORD.match(line):
        return [Unit("verbatim", line, number)]
    first, *more = sentences(line)
    return [Unit("record", first, number), *(Unit("sentence", sentence, number) for sentence in more)]


_CALL = re.compile(r"\b\w+\(\w*,|>>>|::")
_CODE = re.compile(
    r">>>|::=|^\s*(?:[-*+•]|\d+\.|\w+\)) |[{}|\\<>]{2}|\b(?:def|self|import|return) \w+[(:]|^\W+$|\w+\(.*\)\s*$"
)


def _is_prose(paragraph: str, min_words: int) -> bool:
    """Return whether a paragraph is running text: enough words, mostly letters, no code, tables or list marks."""
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    return (
        len(paragraph.split()) >= min_words
        and (letters >= 0.8 * len(paragraph) or bool(_RECORD.match(paragraph)))
        and not any(_CODE.search(line) for line in paragraph.split("\n"))
    )
