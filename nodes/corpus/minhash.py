"""Near-duplicates by MinHash and banded LSH (Broder 1997; Lee et al., arXiv 2107.06499), vectorised in numpy.

A document is the set of its word shingles. Of each of `bands x rows` hash functions it keeps the least value over its
shingles: two documents agree in one with probability J, their Jaccard similarity, so the share of agreements
estimates J with standard error sqrt(J(1-J)/n). Documents that agree in all rows of a band are compared.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_WORD = re.compile(r"\w+")
_BLOCK = 1 << 16  # shingles hashed at once: 16 MB a block, however large the corpus


def shingles(texts: Sequence[str], n: int) -> list[U64]:
    """For each text, the distinct 64-bit hashes of its runs of `n` lower-cased words (one run if it is shorter)."""
    known: dict[str, int] = {}
    found = []
    for text in texts:
        words = np.array([_word(word, known) for word in _WORD.findall(text.lower())] or [0], dtype=np.uint64)
        runs = max(len(words) - n + 1, 1)
        mixed = np.zeros(runs, dtype=np.uint64)
        for i in range(min(n, len(words))):
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + words[i : i + runs]
            mixed ^= mixed >> np.uint64(29)
        found.append(np.unique(mixed))
    return found


def _word(word: str, known: dict[str, int]) -> int:
    if word not in known:
        known[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
    return known[word]


def signatures(sets: Sequence[U64], hashes: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures, shape (documents, hashes), by multiply-shift hashing of the shingles."""
    factors, offsets = _coefficients(hashes, seed)
    out = np.empty((len(sets), hashes), dtype=np.uint32)
    start = 0
    while start < len(sets):
        end, size = start, 0
        while end < len(sets) and (size == 0 or size + len(sets[end]) <= _BLOCK):
            size += len(sets[end])
            end += 1
        block = np.concatenate(sets[start:end])
        begins = np.cumsum([0, *(len(one) for one in sets[start : end - 1])])
        for k in range(hashes):
            hashed = ((block * factors[k] + offsets[k]) >> np.uint64(32)).astype(np.uint32)
            out[start:end, k] = np.minimum.reduceat(hashed, begins)
        start = end
    return out


def _coefficients(hashes: int, seed: int) -> tuple[U64, U64]:
    """Odd factors and offsets of the hash functions, from `seed` alone."""
    digest = b"".join(blake2b(f"{seed}:{k}".encode(), digest_size=16).digest() for k in range(hashes))
    pairs = np.frombuffer(digest, dtype="<u8").reshape(hashes, 2)
    return pairs[:, 0] | np.uint64(1), pairs[:, 1].copy()


def similar_pairs(signed: NDArray[np.uint32], bands: int, rows: int, similarity: float) -> list[tuple[int, int, float]]:
    """Pairs (i < j, estimated Jaccard >= `similarity`) among documents that share a band.

    In a band shared by many documents each is compared with the first and with the one before it, not with all: the
    pairs then still connect the documents, in time linear in their number.
    """
    pairs: dict[tuple[int, int], float] = {}
    for band in range(bands):
        keys = _folded(signed[:, band * rows : (band + 1) * rows])
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
        for group in np.split(order, starts[1:]):
            for at in range(1, len(group)):
                for other in {int(group[0]), int(group[at - 1])}:
                    pair = (min(other, int(group[at])), max(other, int(group[at])))
                    if pair not in pairs:
                        pairs[pair] = float(np.mean(signed[pair[0]] == signed[pair[1]]))
    return sorted((i, j, estimate) for (i, j), estimate in pairs.items() if estimate >= similarity)


def _folded(values: NDArray[np.uint32]) -> U64:
    """One 64-bit key a row of `values`, equal for equal rows."""
    keys = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    return keys


def clusters(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `n` documents, the least document that the pairs connect it with."""
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        a, b = find(i), find(j)
        root[max(a, b)] = min(a, b)
    return [find(i) for i in range(n)]
