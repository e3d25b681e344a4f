"""Randomness that depends on what it is for, never on what was drawn before.

A draw is keyed by (seed, purpose, index ...), so adding a task or changing the order of two episodes
moves no other draw, and a rerun writes the same bytes.
"""

import hashlib
import random


def keyed_digest(*key: object, size: int = 8) -> str:
    """Hexadecimal BLAKE2b of `key`'s parts, `size` bytes long; parts are told apart by a separator."""
    text = "\x1f".join(str(part) for part in key)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def keyed_random(*key: object) -> random.Random:
    """A fresh generator whose whole stream is a function of `key`."""
    return random.Random(int(keyed_digest(*key), 16))
