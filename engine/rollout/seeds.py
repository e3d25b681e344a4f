"""Random streams keyed by what they are for, so that nothing hangs on how often another stream was drawn from."""

from hashlib import blake2b

import numpy as np


def key(seed: int, purpose: str, index: int = 0) -> int:
    """A 62-bit number for (seed, purpose, index), fit to seed any generator."""
    return int.from_bytes(blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()) >> 2


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """NumPy's generator for (seed, purpose, index)."""
    return np.random.Generator(np.random.PCG64(key(seed, purpose, index)))
