"""A digest of tensors that does not depend on how they are cut over ranks.

Every number of a tensor is hashed with its position in the whole tensor, and the hashes are added modulo 2^64. The sums
of the pieces therefore add up to that of the whole tensor, whatever the pieces. A change of one number always changes
the sum; several changes cancel with a chance of 2^-64. It guards against accidents, not against an attacker.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.parallel.placement import Piece

BLOCK = 1 << 16
"""Numbers hashed at once, so that temporary arrays stay in the processor's cache."""
_POSITION, _BITS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
"""Odd constants, and the two rounds of splitmix64's finalizer; every step is a bijection of 64 bits."""
_LAST = np.uint64(31)
_UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


def piece_sum(tensor: Tensor, piece: Piece) -> int:
    """Return the sum of the hashes of a contiguous CPU tensor, which is `piece` of its whole."""
    bits = tensor.reshape(-1).view(_UNSIGNED[tensor.element_size()]).numpy()
    total = done = 0
    for start, count in _runs(piece.whole, piece.offsets, piece.sizes):
        for first in range(0, count, BLOCK):
            block = bits[done + first : done + min(first + BLOCK, count)]
            total += _block_sum(block, start + first)
        done += count
    return total % 2**64


def _runs(whole: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield first position and length of each run of numbers that are neighbours both in the piece and in the whole."""
    inner = math.prod(whole[1:])
    if sizes[1:] == whole[1:]:
        yield (offsets[0] * inner, sizes[0] * inner) if sizes else (0, 1)
        return
    for row in range(offsets[0], offsets[0] + sizes[0]):
        for start, count in _runs(whole[1:], offsets[1:], sizes[1:]):
            yield row * inner + start, count


def _block_sum(bits: "NDArray[np.unsignedinteger]", start: int) -> int:
    hashes = np.arange(start, start + len(bits), dtype=np.uint64)
    hashes *= _POSITION
    hashes ^= bits.astype(np.uint64) * _BITS
    for shift, factor in _MIX:
        hashes ^= hashes >> shift
        hashes *= factor
    hashes ^= hashes >> _LAST
    return int(hashes.sum(dtype=np.uint64))


def state_digest(sums: Mapping[str, tuple[str, tuple[int, ...], int]]) -> str:
    """Return the digest of a state from each tensor's type, whole shape and sum over its pieces, by name."""
    state = hashlib.blake2b(digest_size=16)
    for name, (dtype, shape, total) in sorted(sums.items()):
        state.update(f"{name} {dtype} {list(shape)} {total % 2**64:016x}\n".encode())
    return state.hexdigest()
