"""A checkpoint from elsewhere, in Hugging Face's layout: one file or shards; fp32, bf16, or the released FP8 blocks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.model.checkpoint import (
    check_names,
    check_tensor,
    load_config,
    released_shapes,
    write_config,
)
from engine.model.config import K2Config
from engine.model.fp8 import SUFFIX, dequantise, scale_shape
from engine.model.tensorfile import WEIGHTS, Spec, TensorFiles, write_tensors

COMPUTED = "rotary_emb.inv_freq"
"""A buffer that some releases store although the configuration determines it."""


class ReleasedWeights(Mapping[str, Tensor]):
    """The weights of a released checkpoint by name, each in fp32 when asked for."""

    def __init__(self, files: Mapping[str, Tensor], source: str) -> None:
        self._files, self._source = files, source

    def __getitem__(self, name: str) -> Tensor:
        """The weight; UserError where an FP8 one lacks scales of its shape. KeyError if there is none."""
        stored = self._files[name]
        if stored.dtype != torch.float8_e4m3fn:
            return stored.float()
        scale = self._files.get(name + SUFFIX)
        if scale is None or tuple(scale.shape) != scale_shape(tuple(stored.shape)):
            raise UserError(
                f"{self._source}: tensor {name} is FP8, but {name}{SUFFIX} is "
                f"{'missing' if scale is None else f'of shape {tuple(scale.shape)}'}; take a whole checkpoint"
            )
        return dequantise(stored, scale)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._files if not name.endswith((SUFFIX, COMPUTED)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def import_checkpoint(source: Path, out: Path, extra: dict[str, Any]) -> K2Config:
    """Write the checkpoint in `source` into `out` as `save_checkpoint` does, in fp32, tensor by tensor.

    `extra` goes to config.json's `k2_pipeline`. Raises UserError for another architecture, a missing, foreign or
    misshapen tensor, or one with NaN or infinity in it.
    """
    config, _ = load_config(source)
    weights = ReleasedWeights(TensorFiles(source), str(source))
    shapes = released_shapes(config)
    check_names(weights, shapes, str(source))

    def checked(name: str) -> Tensor:
        tensor = weights[name]
        check_tensor(name, tensor, shapes[name], str(source))
        return tensor

    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / WEIGHTS, {name: Spec(torch.float32, shape) for name, shape in shapes.items()}, checked)
    write_config(out, config, extra)
    return config
