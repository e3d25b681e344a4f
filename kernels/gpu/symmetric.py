"""Products that are symmetric, as a Triton kernel that computes the tiles on and above the diagonal and mirrors them.

Newton–Schulz is made of such products: XXᵀ, polynomials of it, and PRP. Half of their arithmetic is a repetition.

Shapes: G matrices, n rows, k inner columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16)
SMALLEST = 1024
"""Rows from which the kernel takes a product: a smaller matrix has too few tiles to gain. (flash-muon, a like kernel,
measured 0.9 times cuBLAS's speed at 1024 and 1.2 at 2048 for one matrix on an H800; ours is not measured.)"""
TILE, INNER = 128, 64


@triton.jit
def _product(
    A, B, ADD, OUT, n, k, a_matrix, a_row, a_column, b_matrix, b_row, b_column, tiles, alpha, beta, diagonal,
    ADDS: tl.constexpr, TILE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Write a tile of alpha·A·Bᵀ + beta·ADD + diagonal·I, and its mirror image."""
    i, j = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if j < i:
        return
    matrix = tl.program_id(1).to(tl.int64)
    row, column, inner = i * TILE + tl.arange(0, TILE), j * TILE + tl.arange(0, TILE), tl.arange(0, INNER)
    a = A + matrix * a_matrix + row[:, None] * a_row + inner[None, :] * a_column
    b = B + matrix * b_matrix + column[None, :] * b_row + inner[:, None] * b_column
    total = tl.zeros((TILE, TILE), tl.float32)
    for first in range(0, k, INNER):
        within = first + inner < k
        left = tl.load(a + first * a_column, (row < n)[:, None] & within[None, :], 0.0)
        right = tl.load(b + first * b_column, within[:, None] & (column < n)[None, :], 0.0)
        total = tl.dot(left, right, total)
    inside = (row < n)[:, None] & (column < n)[None, :]
    out = total * alpha
    place = matrix * n * n + row[:, None] * n + column[None, :]
    if ADDS:
        out += tl.load(ADD + place, inside, 0.0).to(tl.float32) * beta
    out += tl.where(row[:, None] == column[None, :], diagonal, 0.0)
    narrow = out.to(OUT.dtype.element_ty)
    tl.store(OUT + place, narrow, inside)
    if j > i:
        mirrored = matrix * n * n + column[:, None] * n + row[None, :]
        tl.store(OUT + mirrored, tl.trans(narrow), (column < n)[:, None] & (row < n)[None, :])


def product(
    a_Gnk: Tensor,
    b_Gnk: Tensor,
    add_Gnn: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    diagonal: float = 0.0,
) -> Tensor:
    """Return alpha·A·Bᵀ + beta·add + diagonal·I, (G, n, n), whose exact value must be symmetric.

    So is the result, bit by bit but for the tiles on the diagonal. `add_Gnn` is contiguous.
    """
    G, n, k = a_Gnk.shape
    out = torch.empty(G, n, n, dtype=a_Gnk.dtype, device=a_Gnk.device)
    tiles = triton.cdiv(n, TILE)
    launch(
        _product, (tiles * tiles, G), a_Gnk, b_Gnk, add_Gnn, out, n, k, *a_Gnk.stride(), *b_Gnk.stride(), tiles,
        alpha, beta, diagonal, ADDS=add_Gnn is not None, TILE=TILE, INNER=INNER, num_warps=8, num_stages=4,
    )  # fmt: skip
    return out


def takes(x_Gnm: Tensor) -> bool:
    """Return whether products of these matrices are for the kernel: large, and of 16 bit, whose multiplier it uses."""
    return x_Gnm.dtype in TYPES and x_Gnm.shape[1] >= SMALLEST


SHIPPED = {"K2 experts bf16": (64, 2048, 7168, torch.bfloat16), "K2 experts fp16": (64, 2048, 7168, torch.float16)}
"""Matrices, rows, columns, type."""


def sample(case: str, device: str) -> None:
    """Form XXᵀ and a polynomial of it, of a case of SHIPPED with operands that hold anything."""
    G, n, m, dtype = SHIPPED[case]
    x = torch.empty(G, n, m, dtype=dtype, device=device)
    r = product(x, x)
    product(r, r, r, 2.0, -4.8, 3.4)
