"""Random streams keyed by their purpose, so that none depends on how often another stream was drawn from."""

from hashlib import blake2b

import numpy as np


def key(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 62-bit number for (seed, purpose, index), which can seed any generator."""
    return int.from_bytes(blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()) >> 2


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return NumPy's generator for (seed, purpose, index)."""
    return np.random.Generator(np.random.PCG64(key(seed, purpose, index)))
