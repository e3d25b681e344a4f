"""The rotation of a query's or key's rotary channels, in interleaved pairs as K2 stores them, in one pass.

Shapes: B rows, T positions, H heads, d = 2P rotary channels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launching import launch

ROWS = 32
"""Pairs of a token and a head that a program rotates."""


@triton.jit
def _rotate(X, OUT, TURN, x_token, x_head, out_token, out_head, T, H, rows, sign,
            PER_ROW: tl.constexpr, ROWS: tl.constexpr, P: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // H, row % H
    channel, pair = tl.arange(0, 2 * P), tl.arange(0, P)
    inside = (row < rows)[:, None]
    x = tl.load(X + (token * x_token + head * x_head)[:, None] + channel[None, :], inside, 0.0)
    real, imaginary = tl.split(tl.reshape(x.to(tl.float32), (ROWS, P, 2)))
    turn = TURN + ((token if PER_ROW else token % T) * 2 * P)[:, None] + 2 * pair[None, :]
    cosine, sine = tl.load(turn, inside, 0.0), tl.load(turn + 1, inside, 0.0) * sign
    turned = tl.join(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    out = tl.reshape(turned, (ROWS, 2 * P)).to(OUT.dtype.element_ty)
    tl.store(OUT + (token * out_token + head * out_head)[:, None] + channel[None, :], out, inside)


def rotate(x_BTHd: Tensor, turn: Tensor, out_BTHd: Tensor, sign: float = 1.0) -> Tensor:
    """Write x's pairs, rotated by `turn` (back for sign -1), to `out_BTHd`, which may be x itself; return it.

    `turn` is complex64, (T, P) or (B, T, P). Both must have dense rows; P is a power of two.
    """
    B, T, H, d = x_BTHd.shape
    angles: Any = torch.view_as_real(turn.contiguous())
    rows = B * T * H
    launch(
        _rotate, (triton.cdiv(rows, ROWS),),
        x_BTHd, out_BTHd, angles, *_strides(x_BTHd), *_strides(out_BTHd), T, H, rows, sign,
        PER_ROW=turn.dim() == 3, ROWS=ROWS, P=d // 2, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out_BTHd


def has_dense_rows(x: Tensor) -> bool:
    """Return whether the channels of x (B, T, …, d) are dense and its rows follow each other without a gap."""
    return x.stride(-1) == 1 and (x.shape[0] == 1 or x.stride(0) == x.stride(1) * x.shape[1])


def _strides(x_BTHd: Tensor) -> tuple[int, int]:
    """Return the strides of a token and of a head."""
    assert has_dense_rows(x_BTHd), x_BTHd.stride()
    return x_BTHd.stride(1), x_BTHd.stride(2)


SHIPPED = {"K2 queries bf16": (64, 64, torch.bfloat16), "K2 keys bf16": (1, 64, torch.bfloat16)}
"""Heads, channels and type."""


def sample(case: str, device: str, B: int = 2, T: int = 4096) -> None:
    """Rotate a case of SHIPPED with operands that hold anything."""
    H, d, dtype = SHIPPED[case]
    x = torch.empty(B, T, H, 2 * d, dtype=dtype, device=device)[..., d:]
    rotate(x, torch.empty(T, d // 2, dtype=torch.complex64, device=device), x.new_empty(B, T, H, d))
