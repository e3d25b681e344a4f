"""Import a checkpoint from elsewhere, in Hugging Face's layout: one file or shards; floats or released FP8 blocks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from engine.errors import UserError
from engine.model.checkpoint import CONFIG, checked, load_config, read_config, released_shapes, write_config
from engine.model.config import K2Config
from engine.model.fp8 import SUFFIX, check_quantization, dequantise, scale_shape
from engine.model.tensorfile import WEIGHTS, Spec, TensorFiles, write_tensors

COMPUTED = "rotary_emb.inv_freq"
"""A buffer that some releases store although the configuration determines it."""
PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The types in which an unquantised weight, or a scale, may be stored."""


class ReleasedWeights(Mapping[str, Tensor]):
    """The weights of a released checkpoint by name, each converted to fp32 when it is read."""

    def __init__(self, files: Mapping[str, Tensor], source: str) -> None:
        self._files, self._source = files, source

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight; KeyError if there is none.

        Raises UserError for a type that is neither `PLAIN` nor FP8 E4M3, if an FP8 weight lacks positive, finite scales
        of its shape, and if another weight has scales.
        """
        stored, scale = self._files[name], self._files.get(name + SUFFIX)
        if stored.dtype == torch.float8_e4m3fn:
            return dequantise(stored, self._scale(name, stored, scale))
        if stored.dtype not in PLAIN:
            self._refuse(f"tensor {name} is {_type(stored)}, which is not a type that weights are read from")
        if scale is not None:
            self._refuse(f"tensor {name} is {_type(stored)}, but has scales in {name}{SUFFIX}, as FP8 E4M3 has")
        return stored.float()

    def _scale(self, name: str, stored: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            self._refuse(f"tensor {name} is FP8, but {name}{SUFFIX} is missing")
        if stored.ndim != 2 or tuple(scale.shape) != scale_shape(tuple(stored.shape)):
            shapes = f"{tuple(stored.shape)}, but {name}{SUFFIX} is of shape {tuple(scale.shape)}"
            self._refuse(f"tensor {name} is FP8 of shape {shapes}")
        if scale.dtype not in PLAIN:
            self._refuse(f"tensor {name}{SUFFIX} is {_type(scale)}, which is not a type that scales are read from")
        scale_nm = scale.float()
        if bad := scale_nm[~((scale_nm > 0) & scale_nm.isfinite())].tolist():
            self._refuse(f"tensor {name}{SUFFIX} holds the scale {bad[0]}, which is not a positive finite number")
        return scale_nm

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self._source}: {why}; take a checkpoint in fp32, bf16, fp16 or the released FP8")

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._files if not name.endswith(COMPUTED) and not self._is_scale(name))

    def _is_scale(self, name: str) -> bool:
        return name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in self._files

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def import_checkpoint(source: Path, out: Path, extra: dict[str, Any]) -> K2Config:
    """Write the checkpoint in `source` into `out` in fp32, tensor by tensor, in the format of `save_checkpoint`.

    `extra` goes into config.json as `k2_pipeline`. Raises UserError for another architecture or quantisation, and for a
    tensor that is missing, foreign, misshapen, or holds NaN or infinity.
    """
    config, _ = load_config(source)
    check_quantization(read_config(source).get("quantization_config"), str(source / CONFIG))
    weights = ReleasedWeights(TensorFiles(source), str(source))
    shapes = released_shapes(config)
    read = checked(weights, shapes, str(source))
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / WEIGHTS, {name: Spec(torch.float32, shape) for name, shape in shapes.items()}, read)
    write_config(out, config, extra)
    return config
