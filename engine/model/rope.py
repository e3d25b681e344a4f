"""Rotary positions and their extension by YaRN, exactly as in DeepSeek-V3's released code.

Shapes: B batch, T positions, d rotary channels, P = d/2 rotated pairs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from engine.model.config import K2Config
from kernels.precision import wide


def _correction(beta: float, dim: int, theta: float, length: int) -> float:
    """Return the index of the pair that turns `beta` times within `length` positions (YaRN, arXiv 2309.00071)."""
    return dim * math.log(length / (2 * math.pi * beta)) / (2 * math.log(theta))


def _yarn_frequencies(period_P: Tensor, dim: int, theta: float, scaling: dict[str, Any]) -> Tensor:
    """Keep the frequency of fast pairs, stretch slow ones by the factor, with a ramp in between.

    Rounded in the order of Hugging Face's code, so that the bits equal those of other software.
    """
    original = int(scaling["original_max_position_embeddings"])
    low = max(math.floor(_correction(float(scaling["beta_fast"]), dim, theta, original)), 0)
    high = min(math.ceil(_correction(float(scaling["beta_slow"]), dim, theta, original)), dim - 1)
    width = high - low if high != low else 0.001
    kept_P = 1 - ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / width).clamp(0, 1)
    return 1 / (float(scaling["factor"]) * period_P) * (1 - kept_P) + 1 / period_P * kept_P


def inverse_frequencies(config: K2Config) -> Tensor:
    """Return radians per position for each rotated pair, shape (P,), with `config.rope_scaling` applied.

    Always on the CPU, even for a model on the meta device, where arithmetic would import torch's compiler (2 s).
    """
    dim, theta = config.qk_rope_head_dim, config.rope_theta
    period_P = theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    scaling = config.rope_scaling
    if scaling is None:
        return 1 / period_P
    if scaling.get("type", scaling.get("rope_type")) == "linear":
        return 1 / period_P / float(scaling["factor"])
    return _yarn_frequencies(period_P, dim, theta, scaling)


def _magnitude(factor: float, mscale: float) -> float:
    return 1.0 + 0.1 * mscale * math.log(factor) if factor > 1 else 1.0


def _is_yarn(config: K2Config) -> bool:
    scaling = config.rope_scaling
    return scaling is not None and scaling.get("type", scaling.get("rope_type")) == "yarn"


def rotation_magnitude(config: K2Config) -> float:
    """Return the factor of cosines and sines: 1 except for YaRN with unequal mscale and mscale_all_dim."""
    if not _is_yarn(config):
        return 1.0
    scaling = config.rope_scaling or {}
    factor = float(scaling["factor"])
    return _magnitude(factor, float(scaling["mscale"])) / _magnitude(factor, float(scaling["mscale_all_dim"]))


def softmax_scale(config: K2Config) -> float:
    """Return the softmax's scale: 1/√(qk head channels), times YaRN's magnitude squared."""
    scale = 1 / math.sqrt(config.qk_head_dim)
    if not _is_yarn(config):
        return scale
    scaling = config.rope_scaling or {}
    return scale * _magnitude(float(scaling["factor"]), float(scaling["mscale_all_dim"])) ** 2


def rotation(positions: Tensor, frequencies_P: Tensor, magnitude: float) -> Tensor:
    """Return the rotation of each pair at `positions` (T or B×T) as complex numbers, (…, P); angles in fp32 or better.

    The checkpoint stores pairs interleaved, so that they multiply as complex numbers do.
    """
    angles = positions.to(torch.float32)[..., None] * frequencies_P.to(wide(frequencies_P.dtype))
    return torch.complex(angles.cos() * magnitude, angles.sin() * magnitude)
