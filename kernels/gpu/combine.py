"""The sum of a token's rows from its experts as a Triton kernel: gathered, added in fp32 in order, written once.

Shapes: N tokens, k experts of a token, R rows, D channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCK = 2048
"""Channels of a program."""


@triton.jit
def _sum(ROWS, INDEX, OUT, row_stride, D, K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(K):
        row = tl.load(INDEX + token * K + k)
        total += tl.load(ROWS + row * row_stride + d, d < D, 0.0).to(tl.float32)
    tl.store(OUT + token * D + d, total.to(OUT.dtype.element_ty), d < D)


def gather_sum(rows_RD: Tensor, index_Nk: Tensor) -> Tensor:
    """Return Σ_k rows[index_nk], (N, D), without gradient; indices are int64 and not checked."""
    (N, k), D = index_Nk.shape, rows_RD.shape[1]
    out = torch.empty(N, D, dtype=rows_RD.dtype, device=rows_RD.device)
    block = min(BLOCK, triton.next_power_of_2(D))
    launch(
        _sum, (N, triton.cdiv(D, block)), rows_RD, index_Nk.contiguous(), out, rows_RD.stride(0), D,
        K=k, BLOCK=block, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def refusal(rows_RD: Tensor) -> str:
    """Return why these rows are not for the kernel, with the remedy; "" if they are."""
    if rows_RD.dtype not in TYPES:
        return f"rows are {rows_RD.dtype}".replace("torch.", "") + ", and must be bfloat16, float16 or float32"
    if rows_RD.stride(-1) != 1:
        shape = "×".join(map(str, rows_RD.shape))
        return f"the rows ({shape}) are a view with strides {rows_RD.stride()}; call .contiguous() first"
    return ""


SHIPPED = {"K2 bf16": (8, 7168, torch.bfloat16), "laptop fp32": (4, 128, torch.float32)}
"""Experts of a token, channels, type."""


def sample(case: str, device: str, N: int = 8192) -> None:
    """Sum a case of SHIPPED with operands that hold anything."""
    k, D, dtype = SHIPPED[case]
    index = torch.zeros(N, k, dtype=torch.int64, device=device)
    gather_sum(torch.empty(N * k, D, dtype=dtype, device=device), index)
