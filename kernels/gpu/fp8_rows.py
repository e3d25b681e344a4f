"""Storage in FP8, 1×128, as Triton kernels: the bits are those of kernels/fp8_rows.py.

Shapes: N rows of D numbers, m = ⌈D/128⌉ blocks of a row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCK = 128
BLOCKS = 16
"""Blocks of a program."""


@triton.jit
def quantised(x, POWER_OF_TWO: tl.constexpr):
    """Return fp32 blocks (n, 128) over their scales, and the scales (n,): largest / 448, or the power of two above.

    Divisions are rounded to nearest, which Triton's `/` on a GPU is not. A maximum passes over NaN, so it is counted.
    """
    broken = tl.max((~(tl.abs(x) >= 0.0)).to(tl.int32), 1) != 0
    scale = tl.div_rn(tl.max(tl.abs(x), 1), tl.full((x.shape[0],), 448.0, tl.float32))
    if POWER_OF_TWO:
        bits = scale.to(tl.int32, bitcast=True)
        above = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
        scale = tl.where(scale < float("inf"), above, scale)
    scale = tl.where(scale == 0.0, 1.0, scale)
    scale = tl.where(broken, float("nan"), scale)
    return tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape)), scale


@triton.jit
def _compress(X, CODES, SCALES, x_row, D, m, blocks, POWER_OF_TWO: tl.constexpr, BLOCKS: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    row, first = block // m, block % m * 128
    column = first[:, None] + tl.arange(0, 128)[None, :]
    inside = (block < blocks)[:, None] & (column < D)
    x = tl.load(X + row[:, None] * x_row + column, inside, 0.0).to(tl.float32)
    codes, scale = quantised(x, POWER_OF_TWO)
    tl.store(CODES + row[:, None] * D + column, codes.to(CODES.dtype.element_ty), inside)
    tl.store(SCALES + block, scale, block < blocks)


@triton.jit
def _expand(CODES, SCALES, OUT, D, m, blocks, BLOCKS: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    row, first = block // m, block % m * 128
    column = first[:, None] + tl.arange(0, 128)[None, :]
    inside = (block < blocks)[:, None] & (column < D)
    codes = tl.load(CODES + row[:, None] * D + column, inside, 0.0).to(tl.float32)
    scale = tl.load(SCALES + block, block < blocks, 0.0)
    tl.store(OUT + row[:, None] * D + column, (codes * scale[:, None]).to(OUT.dtype.element_ty), inside)


def compress(x_ND: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Return the codes (N, D) in E4M3 and the scales (N, m) of rows, which may be those of a wider matrix."""
    N, D = x_ND.shape
    m = triton.cdiv(D, BLOCK)
    codes = torch.empty(N, D, dtype=torch.float8_e4m3fn, device=x_ND.device)
    scales = torch.empty(N, m, dtype=torch.float32, device=x_ND.device)
    launch(
        _compress, (triton.cdiv(N * m, BLOCKS),), x_ND, codes, scales, x_ND.stride(0), D, m, N * m,
        POWER_OF_TWO=power_of_two, BLOCKS=BLOCKS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return codes, scales


def expand(codes_ND: Tensor, scales_Nm: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers of contiguous codes and scales in the type `dtype`, (N, D)."""
    N, D = codes_ND.shape
    m = scales_Nm.shape[1]
    out = torch.empty(N, D, dtype=dtype, device=codes_ND.device)
    launch(
        _expand, (triton.cdiv(N * m, BLOCKS),), codes_ND, scales_Nm, out, D, m, N * m,
        BLOCKS=BLOCKS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def refusal(x: Tensor, dtype: torch.dtype) -> str:
    """Return why rows or codes x, stored from or read as `dtype`, are not for the kernels; "" if they are."""
    if dtype not in TYPES:
        return f"numbers are {dtype}".replace("torch.", "") + ", and must be bfloat16, float16 or float32"
    if x.stride(-1) != 1:
        shape = "×".join(map(str, x.shape))
        return f"the rows ({shape}) are a view with strides {x.stride()}; call .contiguous() first"
    return ""


SHIPPED = {
    "K2 bf16": (7168, torch.bfloat16, False),
    "K2 bf16 power of two": (7168, torch.bfloat16, True),
    "K2 fp32": (7168, torch.float32, False),
}
"""Numbers of a row, type, scales that are powers of two."""


def sample(case: str, device: str, N: int = 8192) -> None:
    """Compress and expand a case of SHIPPED with operands that hold anything."""
    D, dtype, power_of_two = SHIPPED[case]
    expand(*compress(torch.empty(N, D, dtype=dtype, device=device), power_of_two), dtype)
