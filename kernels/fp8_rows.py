"""Storage in FP8: each row in E4M3, with a scale in fp32 for every 128 numbers of it (K2's activations, k2-facts 5).

Shapes: … any leading axes, D numbers of a row, m = ⌈D/128⌉ blocks, of which the last may be shorter.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.choice import accepted, has_triton, on_gpu

BLOCK = 128
LARGEST = 448.0
"""E4M3's largest number, as which a block's largest one is stored."""
CHUNK = 2**20
"""About so many numbers are converted at a time, so that their fp32 copies stay small."""


def reference(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Specify `compress` with all blocks at once."""
    D = x.shape[-1]
    m = math.ceil(D / BLOCK)
    blocks = F.pad(x.float(), (0, m * BLOCK - D)).unflatten(-1, (m, BLOCK))
    scale = blocks.abs().amax(-1) / LARGEST
    if power_of_two:
        above = ((scale.view(torch.int32) + 0x7FFFFF) & 0x7F800000).view(torch.float32)
        scale = torch.where(scale.isfinite(), above, scale)
    scale = torch.where(scale == 0, 1.0, scale)
    return (blocks / scale[..., None]).flatten(-2)[..., :D].to(torch.float8_e4m3fn), scale


def compress(x: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Return the rows of x in E4M3, of x's shape, and the scales (…, m) in fp32; a block of zeros has scale 1.

    `power_of_two` raises each scale to the next power of two, by which a division is exact. A block with a number that
    is not finite is NaN when it is expanded.
    """
    D = x.shape[-1]
    rows = x.reshape(-1, D)
    if on_gpu(x) and has_triton("fp8_rows"):
        from kernels.gpu import fp8_rows as triton

        if accepted("fp8_rows", triton.refusal(rows, x.dtype)):
            codes, scales = triton.compress(rows, power_of_two)
            return codes.view(x.shape), scales.view(*x.shape[:-1], -1)
    codes = torch.empty(rows.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(rows), math.ceil(D / BLOCK), dtype=torch.float32, device=x.device)
    step = max(1, CHUNK // D)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        codes[part], scales[part] = reference(rows[part], power_of_two)
    return codes.view(x.shape), scales.view(*x.shape[:-1], -1)


def expand(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers that `compress` stored, in the type `dtype`."""
    D = codes.shape[-1]
    rows, scale_Nm = codes.reshape(-1, D), scales.reshape(-1, scales.shape[-1])
    if on_gpu(codes) and has_triton("fp8_rows"):
        from kernels.gpu import fp8_rows as triton

        if accepted("fp8_rows", triton.refusal(rows, dtype)):
            return triton.expand(rows, scale_Nm, dtype).view(codes.shape)
    out = torch.empty(rows.shape, dtype=dtype, device=codes.device)
    step = max(1, CHUNK // D)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        out[part] = rows[part].float() * scale_Nm[part].repeat_interleave(BLOCK, -1)[:, :D]
    return out.view(codes.shape)
