"""The head and its loss in one op: next-token cross-entropy without holding all logits at once.

Shapes: N tokens, D model channels, V vocabulary.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.choice import accepted, has_triton, on_gpu
from kernels.precision import operand_type, product_type, wide

CHUNK = 256
"""Rows of logits at a time on a CPU, which stay in its cache."""
CHUNK_OF_TRITON = 2048
"""Rows of logits at a time on a GPU: enough for its matrix units, 0.7 GB at K2's vocabulary in bf16."""


@dataclass(frozen=True)
class Terms:
    """The terms of the loss beside cross-entropy itself.

    A row whose target is `ignored` counts neither in the sum nor in the mean (None: every row counts). `z` weighs
    (log Σ exp logits)², which keeps logits from drifting together (PaLM, arXiv 2204.02311, section 5).
    """

    ignored: int | None = None
    z: float = 0.0


PLAIN = Terms()


def reference(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, terms: Terms = PLAIN) -> Tensor:
    """Specify the op: the mean of -log softmax(x Wᵀ)[target] + z·(log Σ exp)², in nats, over the rows that count."""
    logits = x_ND @ weight_VD.T
    logits = logits.to(wide(logits.dtype))
    if terms == PLAIN:
        return F.cross_entropy(logits, targets_N)
    counts = torch.ones_like(targets_N, dtype=torch.bool) if terms.ignored is None else targets_N != terms.ignored
    losses = F.cross_entropy(logits[counts], targets_N[counts], reduction="none")
    return (losses + terms.z * logits[counts].logsumexp(-1).square()).mean()


def _chunk(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return the losses of a chunk, (n,), and the gradient of its logits but for -1 at the targets, (n, V).

    Both are in fp32 or better, and 0 in rows that do not count. One exponential per logit: the largest logit's share of
    the softmax gives the log-sum-exp.
    """
    logits = x_ND @ weight_VD.T
    logits = logits.to(wide(logits.dtype))
    at_target = logits.gather(-1, targets_N[:, None])[:, 0]
    largest = logits.amax(-1)
    share = logits.softmax(-1)
    if not terms.z:
        return largest - share.amax(-1).log() - at_target, share
    log_sum = largest - share.amax(-1).log()
    return log_sum - at_target + terms.z * log_sum.square(), share.mul_((1 + 2 * terms.z * log_sum)[:, None])


def _losses(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, terms: Terms, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the losses of a chunk, (n,), and if `gradient` that of their sum by the logits, (n, V), in x's type."""
    if (fused := _triton(x_ND)) is not None:
        logits = x_ND @ weight_VD.T
        losses = fused.losses(logits, targets_N, terms.ignored, terms.z, gradient)
        return losses, logits if gradient else None
    counts = None if terms.ignored is None else targets_N != terms.ignored
    targets_N = targets_N if counts is None else torch.where(counts, targets_N, 0)
    losses, share = _chunk(x_ND, weight_VD, targets_N, terms)
    if counts is not None:
        losses = torch.where(counts, losses, 0.0)
    if not gradient:
        return losses, None
    share.scatter_add_(1, targets_N[:, None], torch.full_like(share[:, :1], -1.0))
    if counts is not None:
        share = torch.where(counts[:, None], share, 0.0)
    return losses, share.to(x_ND.dtype)


def _triton(x_ND: Tensor) -> ModuleType | None:
    """Return the Triton kernel of rows of logits, None where torch's form computes them."""
    if on_gpu(x_ND) and has_triton("cross_entropy"):
        from kernels.gpu import cross_entropy

        if accepted("cross_entropy", cross_entropy.refusal(x_ND, x_ND.dtype)):
            return cross_entropy
    return None


def _n_rows(x_ND: Tensor) -> int:
    """Return the number of rows of a chunk."""
    return CHUNK if _triton(x_ND) is None else CHUNK_OF_TRITON


def _count(targets_N: Tensor, terms: Terms) -> Tensor | int:
    """Return the number of rows that count: on the device where it depends on the targets."""
    return len(targets_N) if terms.ignored is None else (targets_N != terms.ignored).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward, chunk by chunk, so that logits exist only as long as their chunk."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype, terms: Terms
    ) -> Tensor:
        x, weight, n = x_ND.to(dtype), weight_VD.to(dtype), x_ND.shape[0]
        total = torch.zeros((), dtype=wide(dtype), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight_VD, dtype=wide(dtype))
        for start in range(0, n, rows := _n_rows(x)):
            part = slice(start, min(start + rows, n))
            losses, gradient = _losses(x[part], weight, targets_N[part], terms, gradient=True)
            assert gradient is not None
            total += losses.sum()
            dx[part] = gradient @ weight
            dweight.addmm_(gradient.T, x[part]) if dweight.dtype == dtype else dweight.add_(gradient.T @ x[part])
        ctx.save_for_backward(dx.to(x_ND.dtype), dweight.to(weight_VD.dtype))
        ctx.count = count = _count(targets_N, terms)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dx, dweight = ctx.saved_tensors
        scale = gradients[0] / ctx.count
        return dx * scale, dweight * scale, None, None, None


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, terms: Terms = PLAIN) -> Tensor:
    """Return the mean cross-entropy of the head's logits against `targets_N` (N,) int64, in nats, with its `terms`.

    Products are computed in autocast's type if it is on, else in x's; softmax and sums in fp32. Memory holds some rows
    of logits at a time, CHUNK or CHUNK_OF_TRITON. The mean over no row is NaN.
    """
    device = x_ND.device.type
    operand = operand_type(x_ND)
    dtype = product_type(operand, device)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad):
            loss: Tensor = _LinearCrossEntropy.apply(x_ND.to(operand), weight_VD.to(operand), targets_N, dtype, terms)
            return loss
        x, weight = (t.to(operand).to(dtype) for t in (x_ND, weight_VD))
        rows = _n_rows(x)
        parts = zip(x.split(rows), targets_N.split(rows), strict=True)
        losses = torch.cat([_losses(xs, weight, ts, terms, gradient=False)[0] for xs, ts in parts])
        return losses.sum() / _count(targets_N, terms)
