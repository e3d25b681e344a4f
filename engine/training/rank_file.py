"""The file with a rank's tensors, and what the index says of all.

The file has the safetensors format. It is written tensor by tensor, so that no second copy of them is made in memory.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.training.sealed import INDEX

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types that can be kept, and the format's words for them."""
TYPES = {word: dtype for dtype, word in DTYPES.items()}
BLOCK = 1 << 22
"""Bytes written at once: the digest is taken of what the write has just read into the cache."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write contiguous CPU tensors by name, wait until they are on disk, and return the file's digest (blake2b)."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)  # so that the tensors begin aligned
    digest = hashlib.blake2b(digest_size=16)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write(handle, memoryview(len(words).to_bytes(8, "little") + words), digest)
        for tensor in tensors.values():
            _write(handle, tensor.reshape(-1).view(torch.uint8).numpy().data, digest)
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest.hexdigest()


def _write(handle: int, data: memoryview, digest: "hashlib.blake2b") -> None:
    for first in range(0, len(data), BLOCK):
        block = data[first : first + BLOCK]
        digest.update(block)
        while block:
            block = block[os.write(handle, block) :]


def shapes(directory: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return whole shape and type of each tensor in a checkpoint, by name."""
    tensors = json.loads((directory / INDEX).read_bytes())["tensors"]
    return {name: (tuple(entry["shape"]), TYPES[entry["dtype"]]) for name, entry in tensors.items()}
