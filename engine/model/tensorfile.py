"""Write and read safetensors files one tensor at a time, so that memory stays flat in the number of tensors.

The bytes equal those of safetensors' own `save`: wide types first, then by name.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.artifacts.names import BadName, checked_names
from engine.errors import UserError
from engine.remedy import remake
from kernels.host import to_host

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}
"""The types that are written, with their names in safetensors."""


@dataclass(frozen=True)
class Spec:
    """Type and shape of a tensor that is not computed yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, specs: Mapping[str, Spec], tensor_of: Callable[[str], Tensor]) -> None:
    """Write a safetensors file of `specs`, calling `tensor_of(name)` for each tensor when it is written."""
    order = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        spec = specs[name]
        start, end = end, end + spec.nbytes
        header[name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensor_of(name)
            if (tensor.dtype, tuple(tensor.shape)) != (specs[name].dtype, specs[name].shape):
                raise ValueError(f"{name} came as {tensor.dtype} {tuple(tensor.shape)}, not as {specs[name]}")
            file.write(to_host(tensor.detach().contiguous().reshape(-1).view(torch.uint8))[0].data)


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a checkpoint's directory by name, each read on access; one file, or shards with an index."""

    def __init__(self, directory: Path) -> None:
        """Open the directory's files; raises UserError naming a file that is missing or damaged."""
        self._files: dict[str, Any] = {}
        self._place: dict[str, Path] = {}
        index = directory / INDEX
        for path in _listed(index) if index.exists() else [directory / WEIGHTS]:
            self._open(path)
        if index.exists():
            self._compare(index)

    def _open(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist, or is not a file: {remake(path)}")
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or not a safetensors file ({error}): {remake(path)}") from None
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if name in self._place:
                raise UserError(f"{path}: tensor {name} is also in {self._place[name].name}; remove one of them")
            self._place[name] = path
        self._files[str(path)] = file

    def _compare(self, index: Path) -> None:
        for name, file in _weight_map(index).items():
            if name not in self._place or self._place[name].name != file:
                raise UserError(f"{index}: tensor {name} is not in {file}: {remake(index)}")

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor; KeyError if there is none of that name."""
        tensor: Tensor = self._files[str(self._place[name])].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return {str(name): str(file) for name, file in json.loads(index.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is not an index of shards: it lacks a weight_map: {remake(index)}") from None


def _listed(index: Path) -> list[Path]:
    try:
        names = sorted(set(checked_names(_weight_map(index).values())))
    except BadName as error:
        raise UserError(f"{index} points outside its directory: {error}: {remake(index)}") from None
    return [index.with_name(name) for name in names]
