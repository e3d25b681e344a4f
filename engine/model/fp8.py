"""The released weight format: FP8 E4M3 in blocks of 128 × 128, each with a scale in fp32 (DeepSeek-V3, K2).

Shapes: N rows, M columns, n = ⌈N/128⌉ and m = ⌈M/128⌉ blocks; blocks at the edge may be smaller.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import UserError

BLOCK = 128
LARGEST = 448.0
"""E4M3's largest number, as which a block's largest weight is stored."""
SUFFIX = "_scale_inv"
"""The scale of `x.weight` is `x.weight_scale_inv`, by which the stored numbers are multiplied."""

QUANTIZATION: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}
"""config.json's quantization_config."""
_WITHOUT_EFFECT = frozenset({"scale_fmt", "modules_to_not_convert", "ignored_layers", "dequantize"})
"""Its further fields that do not affect the meaning of the stored numbers, which each tensor's type defines."""


def check_quantization(settings: Any, source: str) -> None:
    """Refuse a quantization_config of another format, naming the field; None means that there is none."""
    if settings is None:
        return
    where = f"{source}: quantization_config"
    remedy = "take a checkpoint in fp32, bf16, fp16 or the released FP8"
    if not isinstance(settings, dict):
        raise UserError(f"{where} is {settings!r}, which is not an object; {remedy}")
    for name, released in QUANTIZATION.items():
        given = settings.get(name)
        allowed = {"activation_scheme": ("dynamic", "static", None), "fmt": (released, None)}.get(name, (released,))
        if given not in allowed:
            raise UserError(f"{where}.{name} is {given!r}, but the released format has {released!r}; {remedy}")
    for name, given in settings.items():
        if name not in QUANTIZATION and name not in _WITHOUT_EFFECT and not (given is None or given is False):
            raise UserError(f"{where}.{name} is {given!r}, which the released format does not have; {remedy}")


def is_quantised(name: str) -> bool:
    """Return whether the release quantises a weight: all projections; not embedding, head, norms and router."""
    return "_proj" in name and name.endswith(".weight")


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (n, m) for a weight of shape (N, M)."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def block_scales(weight_NM: Tensor) -> Tensor:
    """Return each block's largest magnitude over 448, fp32 (n, m); 1 for a block of zeros."""
    rows, columns = weight_NM.shape
    n, m = scale_shape((rows, columns))
    padded = F.pad(weight_NM.float().abs(), (0, m * BLOCK - columns, 0, n * BLOCK - rows))
    scale_nm = padded.view(n, BLOCK, m, BLOCK).amax((1, 3)) / LARGEST
    return torch.where(scale_nm > 0, scale_nm, 1.0)


def quantise(weight_NM: Tensor, scale_nm: Tensor) -> Tensor:
    """Return the weight over its blocks' scales, rounded to the nearest E4M3 number; (N, M)."""
    scaled = weight_NM.float() / _spread(scale_nm, weight_NM.shape)
    return scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def dequantise(stored_NM: Tensor, scale_nm: Tensor) -> Tensor:
    """Return the values of the stored weight in fp32; (N, M)."""
    return stored_NM.float() * _spread(scale_nm, stored_NM.shape)


def _spread(scale_nm: Tensor, shape: torch.Size) -> Tensor:
    """Return the scale of each element, (N, M)."""
    return scale_nm.repeat_interleave(BLOCK, 0)[: shape[0]].repeat_interleave(BLOCK, 1)[:, : shape[1]]
