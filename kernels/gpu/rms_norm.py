"""RMSNorm as Triton kernels, forward and backward each in one pass, also with a residual added before.

Shapes: … any leading axes, D channels, N rows.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 16384
"""A row is one program's, and has to fit its registers."""
PROGRAMS = 256
"""Programs of a backward: each sums the gain's gradient over its own rows. Their number is the same on every GPU, so
that the order of the sum is, too."""


@triton.jit
def _forward(X, RESIDUAL, GAIN, SUM, Y, R, x_row, D, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    x = tl.load(X + row * x_row + d, inside, 0.0).to(tl.float32)
    if ADDS:
        x = (x + tl.load(RESIDUAL + row * D + d, inside, 0.0).to(tl.float32)).to(SUM.dtype.element_ty)
        tl.store(SUM + row * D + d, x, inside)
        x = x.to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    gain = tl.load(GAIN + d, inside, 0.0).to(tl.float32)
    tl.store(Y + row * D + d, (x * r * gain).to(Y.dtype.element_ty), inside)
    tl.store(R + row, r)


@triton.jit
def _backward(X, GAIN, R, DY, DSUM, DX, DGAIN, x_row, N, D, rows, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    """Compute dx of `rows` rows, and this program's part of dgain; `DSUM` is the gradient that x itself has."""
    program = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    inside = d < D
    gain = tl.load(GAIN + d, inside, 0.0).to(tl.float32)
    dgain = tl.zeros((BLOCK,), tl.float32)
    first = program.to(tl.int64) * rows
    for i in range(0, tl.minimum(rows, N - program * rows)):
        at = first + i
        r = tl.load(R + at)
        normal = tl.load(X + at * x_row + d, inside, 0.0).to(tl.float32) * r
        dy = tl.load(DY + at * D + d, inside, 0.0).to(tl.float32)
        dgain += dy * normal
        dnormal = dy * gain
        dx = (dnormal - normal * (tl.sum(dnormal * normal, 0) / D)) * r
        if ADDS:
            dx += tl.load(DSUM + at * D + d, inside, 0.0).to(tl.float32)
        tl.store(DX + at * D + d, dx.to(DX.dtype.element_ty), inside)
    tl.store(DGAIN + program.to(tl.int64) * D + d, dgain, inside)


def _warps(D: int) -> int:
    return 16 if D > 4096 else 8 if D > 1024 else 4


def normalised(x: Tensor, gain_D: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, 1 / √(mean x² + eps) of each row (N,), and x plus the residual (x itself without)."""
    D = x.shape[-1]
    x_ND = x.reshape(-1, D)
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    total = x if residual is None else torch.empty_like(y)
    r_N = torch.empty(len(x_ND), dtype=torch.float32, device=x.device)
    launch(
        _forward, (len(x_ND),),
        x_ND, None if residual is None else residual.contiguous(), gain_D, total, y, r_N, x_ND.stride(0), D, eps,
        ADDS=residual is not None, BLOCK=triton.next_power_of_2(D), num_warps=_warps(D), num_stages=1,
    )  # fmt: skip
    return y, r_N, total


def _gradients(x: Tensor, gain_D: Tensor, r_N: Tensor, dy: Tensor, dtotal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return dx, with `dtotal` added if there is one, and dgain."""
    D = x.shape[-1]
    x_ND = x.reshape(-1, D)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = triton.cdiv(len(x_ND), PROGRAMS)
    programs = triton.cdiv(len(x_ND), rows) if rows else 0
    parts = torch.empty(programs, D, dtype=torch.float32, device=x.device)
    launch(
        _backward, (programs,),
        x_ND, gain_D, r_N, dy.contiguous(), None if dtotal is None else dtotal.contiguous(), dx, parts,
        x_ND.stride(0), len(x_ND), D, rows,
        ADDS=dtotal is not None, BLOCK=triton.next_power_of_2(D), num_warps=_warps(D), num_stages=1,
    )  # fmt: skip
    return dx, parts.sum(0).to(gain_D.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        y, r_N, _ = normalised(x, gain_D, eps)
        ctx.save_for_backward(x, gain_D, r_N)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain_D, r_N = ctx.saved_tensors
        return *_gradients(x, gain_D, r_N, gradients[0], None), None


class _AddedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, r_N, total = normalised(x, gain_D, eps, residual)
        ctx.save_for_backward(total, gain_D, r_N)
        ctx.types = x.dtype, residual.dtype
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        total, gain_D, r_N = ctx.saved_tensors
        dx, dgain_D = _gradients(total, gain_D, r_N, gradients[1], gradients[0])
        return dx.to(ctx.types[0]), dx.to(ctx.types[1]), dgain_D, None


def refusal(x: Tensor, gain_D: Tensor, residual: Tensor | None = None) -> str:
    """Return why these operands are not for the kernels, with the remedy; "" if they are."""
    D = x.shape[-1]
    if residual is not None and (residual.shape != x.shape or residual.dtype not in TYPES):
        return f"the residual is {tuple(residual.shape)} {residual.dtype}, beside rows of {tuple(x.shape)}"
    if x.dtype not in TYPES or gain_D.dtype not in TYPES:
        types = f"{x.dtype} and {gain_D.dtype}".replace("torch.", "")
        return f"rows and gain are {types}, and must be bfloat16, float16 or float32"
    if D > WIDEST:
        return f"rows of {D} channels do not fit a program; at most {WIDEST} do"
    if x.stride(-1) != 1 or not gain_D.is_contiguous():
        shape = "×".join(map(str, x.shape))
        return f"the rows ({shape}) are a view with strides {x.stride()}; call .contiguous() first"
    return ""


def rms_norm(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Normalise the last axis as kernels.rms_norm.rms_norm does."""
    y: Tensor = _RMSNorm.apply(x, gain_D, eps)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, gain_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x + residual, rounded to their type, and its normalised rows."""
    total, y = _AddedRMSNorm.apply(x, residual, gain_D, eps)
    return total, y


SHIPPED = {
    "K2 bf16": (7168, torch.bfloat16, False),
    "K2 fp32": (7168, torch.float32, False),
    "K2 latent bf16": (512, torch.bfloat16, False),
    "K2 residual bf16": (7168, torch.bfloat16, True),
    "laptop fp32": (128, torch.float32, False),
}
"""Channels, type, residual."""


def sample(case: str, device: str, N: int = 8192) -> None:
    """Run forward and backward of a case of SHIPPED with operands that hold anything."""
    D, dtype, adds = SHIPPED[case]
    x = torch.empty(N, D, dtype=dtype, device=device, requires_grad=True)
    gain = torch.empty(D, device=device, requires_grad=True)
    total, y = add_rms_norm(x, torch.empty_like(x), gain, 1e-6) if adds else (x, rms_norm(x, gain, 1e-6))
    torch.autograd.backward([total, y], [torch.empty_like(x), torch.empty_like(y)])
