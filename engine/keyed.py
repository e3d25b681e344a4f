"""Randomness that depends on its purpose, never on what was drawn before.

A draw is keyed by (seed, purpose, index ...), so that adding a task or swapping two episodes changes no other draw, and
a rerun writes the same bytes. Tool use keys by texts of any number, sampling and training by (seed, purpose, index):
two forms, each of which the bits of published artifacts depend on.
"""

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def keyed_digest(*key: object, size: int = 8) -> str:
    """Return the hexadecimal BLAKE2b of `key`'s parts, `size` bytes long; a separator keeps the parts apart."""
    text = "\x1f".join(str(part) for part in key)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def keyed_random(*key: object) -> random.Random:
    """Return a new generator whose whole stream is a function of `key`."""
    return random.Random(int(keyed_digest(*key), 16))


def key(seed: int, purpose: str, index: int = 0) -> int:
    """Return a 62-bit number for (seed, purpose, index), which can seed any generator."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()) >> 2


def generator(seed: int, purpose: str, index: int = 0) -> "np.random.Generator":
    """Return NumPy's generator for (seed, purpose, index)."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(key(seed, purpose, index)))
