"""Find near-duplicates by MinHash and banded LSH (Broder 1997; Lee et al., arXiv 2107.06499), vectorised in NumPy.

A document is the set of its word shingles. For each of `bands x rows` hash functions, its signature has the lowest
value over the shingles: two documents agree in one value with probability J, their Jaccard similarity, so the share
of agreements estimates J with standard error sqrt(J(1-J)/n). Documents that agree in all rows of a band are compared.
"""

import os
import re
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
_WORD = re.compile(r"\w+")
_BLOCK = 1 << 16  # shingles hashed at once: a few temporaries of 512 kB, however large the corpus
_KNOWN_WORDS = 1 << 17
_PAIRS = 1 << 14  # pairs of signatures compared at once


class Words(dict[str, int]):
    """The 64-bit hashes of words seen so far; emptied when it has grown large."""

    def __missing__(self, word: str) -> int:
        """Return the hash of a new word after adding it."""
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        hashed = self[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
        return hashed


def shingles(texts: Iterable[str], n: int, known: Words | None = None) -> list[U64]:
    """Return for each text the distinct 64-bit hashes of its runs of `n` lower-cased words (one if it is shorter).

    `known` keeps the hashes of words between calls.
    """
    hash_of = (Words() if known is None else known).__getitem__
    sets = []
    for text in texts:
        spelt = _WORD.findall(text.lower())
        words = np.fromiter(map(hash_of, spelt), np.uint64, len(spelt)) if spelt else np.zeros(1, np.uint64)
        mixed = np.zeros(max(len(words) - n + 1, 1), dtype=np.uint64)
        for i in range(min(n, len(words))):
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed += words[i : i + len(mixed)]
            mixed ^= mixed >> np.uint64(29)
        sets.append(np.unique(mixed))
    return sets


def signatures(sets: Sequence[U64], hashes: int, seed: int) -> NDArray[np.uint32]:
    """Return MinHash signatures (documents, hashes), made by multiply-shift hashing of the shingles."""
    factors, offsets = _coefficients(hashes, seed)
    out = np.empty((len(sets), hashes), dtype=np.uint32)
    start = 0
    while start < len(sets):
        end, size = start, 0
        while end < len(sets) and (size == 0 or size + len(sets[end]) <= _BLOCK):
            size += len(sets[end])
            end += 1
        block = np.concatenate(sets[start:end])
        begins = np.cumsum([0, *(len(shingles_) for shingles_ in sets[start : end - 1])])
        hashed = np.empty_like(block)
        for k in range(hashes):
            np.multiply(block, factors[k], out=hashed)
            np.add(hashed, offsets[k], out=hashed)
            out[start:end, k] = np.minimum.reduceat(hashed, begins) >> np.uint64(32)
        start = end
    return out


def _coefficients(hashes: int, seed: int) -> tuple[U64, U64]:
    """Return odd factors and offsets of the hash functions, which depend on `seed` alone."""
    digest = b"".join(blake2b(f"{seed}:{k}".encode(), digest_size=16).digest() for k in range(hashes))
    pairs = np.frombuffer(digest, dtype="<u8").reshape(hashes, 2)
    return pairs[:, 0] | np.uint64(1), pairs[:, 1].copy()


class SignatureFile:
    """Signatures of documents on disk: whole signatures row by row, and for each band one key per document."""

    def __init__(self, folder: Path, bands: int, rows: int) -> None:
        """Create empty files in `folder`, which is created if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self.bands, self.rows, self.documents = bands, rows, 0
        self._whole = folder / "signatures"
        self._keys = [folder / f"band-{band}" for band in range(bands)]
        for path in (self._whole, *self._keys):
            path.write_bytes(b"")

    def append(self, signed: NDArray[np.uint32]) -> None:
        """Add the signatures of more documents, shape (documents, bands x rows)."""
        self.documents += len(signed)
        with self._whole.open("ab") as stream:
            stream.write(signed.tobytes())
        for band, path in enumerate(self._keys):
            with path.open("ab") as stream:
                stream.write(_folded(signed[:, band * self.rows : (band + 1) * self.rows]).tobytes())

    def keys(self, band: int) -> U64:
        """Return one key per document; keys are equal where all rows of the band are."""
        return np.fromfile(self._keys[band], dtype=np.uint64)

    def estimates(self, first: I64, second: I64) -> F64:
        """Return the estimated Jaccard similarity of each pair of documents."""
        width = self.bands * self.rows
        estimates = np.empty(len(first), dtype=np.float64)
        with self._whole.open("rb") as stream:
            for start in range(0, len(first), _PAIRS):
                block = slice(start, start + _PAIRS)
                agree = _signed(stream.fileno(), first[block], width) == _signed(stream.fileno(), second[block], width)
                estimates[block] = agree.sum(axis=1) / width
        return estimates


def _signed(descriptor: int, documents: I64, width: int) -> NDArray[np.uint32]:
    rows = np.empty((len(documents), width), dtype=np.uint32)
    for row, at in zip(rows, documents.tolist()):
        os.preadv(descriptor, [row.data], at * rows.strides[0])
    return rows


class Pairs(NamedTuple):
    """Pairs of documents, first < second, in ascending order, and their estimated Jaccard similarity."""

    first: I64
    second: I64
    similarity: F64


def similar_pairs(signed: SignatureFile, similarity: float) -> Pairs:
    """Return the pairs with an estimated Jaccard similarity of at least `similarity` that share a band.

    In a band shared by many documents, each is compared with the first and with the one before it, not with all: the
    pairs still connect the documents, in time linear in their number.
    """
    n = np.int64(max(signed.documents, 1))
    seen, similar, estimates = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)
    for band in range(signed.bands):
        new = np.setdiff1d(_in_one_band(signed.keys(band), n), seen)
        seen = np.union1d(seen, new)
        estimate = signed.estimates(new // n, new % n)
        similar = np.concatenate([similar, new[estimate >= similarity]])
        estimates = np.concatenate([estimates, estimate[estimate >= similarity]])
    order = np.argsort(similar)
    return Pairs(similar[order] // n, similar[order] % n, estimates[order])


def _in_one_band(keys: U64, n: np.int64) -> I64:
    """Return pairs of documents with equal keys, as first x n + second."""
    order = np.argsort(keys, kind="stable")
    alike = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    begins = np.arange(len(keys))
    begins[alike] = 0
    first = np.maximum.accumulate(begins)[alike]
    return np.unique(np.concatenate([order[first] * n + order[alike], order[alike - 1] * n + order[alike]]))


def _folded(values: NDArray[np.uint32]) -> U64:
    """Return one 64-bit key per row of `values`, equal for equal rows."""
    keys = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    return keys


def clusters(n: int, pairs: Iterable[tuple[int, int]]) -> I64:
    """Return for each of `n` documents the lowest-numbered document that the pairs connect it with."""
    root = array("q", range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        a, b = find(i), find(j)
        root[max(a, b)] = min(a, b)
    return np.fromiter((find(i) for i in range(n)), dtype=np.int64, count=n)
