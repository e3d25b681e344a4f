"""A pseudo-random permutation of 0..n-1 that is computed, not stored: one epoch's order of training windows.

A shuffled array of the windows of a 15.5T-token corpus would not fit in memory, and NumPy promises no stable stream
over its versions. A Feistel network over the next even number of bits, walked until the value falls below n, needs
neither memory nor state, so any batch of any step is found directly.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROUNDS: Final = 6


def key(*parts: str | int) -> int:
    """Return 64 bits that depend only on `parts`: the root of all randomness here (seed, purpose, index)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finaliser of `x` (Steele et al. 2014); the multiplications are meant to wrap."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(positions: NDArray[np.int64], n: int, root: int) -> NDArray[np.int64]:
    """Return where each of `positions` (all in 0..n-1) goes under the permutation of 0..n-1 that `root` selects."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.array([key(root, r) for r in range(_ROUNDS)], dtype=np.uint64)
    x = positions.astype(np.uint64)
    walking = np.ones(x.shape, dtype=bool)
    while walking.any():
        left, right = x[walking] >> half, x[walking] & mask
        for k in keys:
            left, right = right, left ^ (_mix(right + k) & mask)
        x[walking] = (left << half) | right
        walking = x >= np.uint64(n)
    return x.astype(np.int64)
