"""Randomness that depends on its purpose, never on what was drawn before.

A draw is keyed by (seed, purpose, index ...), so that adding a task or swapping two episodes changes no other draw,
and a rerun writes the same bytes.
"""

import hashlib
import random


def keyed_digest(*key: object, size: int = 8) -> str:
    """Return the hexadecimal BLAKE2b of `key`'s parts, `size` bytes long; a separator keeps the parts apart."""
    text = "\x1f".join(str(part) for part in key)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def keyed_random(*key: object) -> random.Random:
    """Return a new generator whose whole stream is a function of `key`."""
    return random.Random(int(keyed_digest(*key), 16))
