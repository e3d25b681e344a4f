"""Cross-entropy of rows of logits as a Triton kernel, which leaves the gradient in the logits' place.

Shapes: n rows of a chunk, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launching import launch

TYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 8192
"""Logits of a row that a program has at a time."""


@triton.jit
def _losses(
    LOGITS, TARGETS, LOSSES, V, ignored, z,
    IGNORES: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Read a row once for its loss, and once more to write its gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits = LOGITS + row * V
    column = tl.arange(0, BLOCK)
    target = tl.load(TARGETS + row)
    known = (target >= 0) & (target < V)
    # Read before the first reduction, at which all threads meet: after the last one it may be overwritten.
    at_target = tl.load(logits + target, known, 0.0).to(tl.float32)
    top = tl.max(tl.full((BLOCK,), float("-inf"), tl.float32), 0)
    total = tl.sum(tl.zeros((BLOCK,), tl.float32), 0)
    for first in range(0, V, BLOCK):
        x = tl.load(logits + first + column, first + column < V, float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 0))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - finite) + tl.sum(tl.exp(x - finite), 0)
        top = higher
    log_sum = top + tl.log(total)
    loss = log_sum - at_target + z * log_sum * log_sum
    loss = tl.where(known, loss, float("nan"))
    if IGNORES:
        counts = target != ignored
        loss = tl.where(counts, loss, 0.0)
    tl.store(LOSSES + row, loss)
    if GRADIENT:
        factor = 1.0 + 2.0 * z * log_sum
        for first in range(0, V, BLOCK):
            inside = first + column < V
            x = tl.load(logits + first + column, inside, 0.0).to(tl.float32)
            dx = tl.exp(x - log_sum) * factor - tl.where(first + column == target, 1.0, 0.0)
            if IGNORES:
                dx = tl.where(counts, dx, 0.0)
            tl.store(logits + first + column, dx.to(LOGITS.dtype.element_ty), inside)


def losses(logits_nV: Tensor, targets_n: Tensor, ignored: int | None, z: float, gradient: bool) -> Tensor:
    """Return each row's loss, log Σ exp - logit of its target + z·(log Σ exp)², (n,) in fp32; 0 where it is `ignored`.

    With `gradient`, the logits are overwritten by the gradient of the losses' sum. A target outside of the vocabulary
    that is not `ignored` gives NaN.
    """
    n, V = logits_nV.shape
    out = torch.empty(n, dtype=torch.float32, device=logits_nV.device)
    block = min(WIDEST, triton.next_power_of_2(V))
    launch(
        _losses, (n,), logits_nV, targets_n.contiguous(), out, V, ignored, z,
        IGNORES=ignored is not None, GRADIENT=gradient, BLOCK=block, num_warps=16 if block > 2048 else 4, num_stages=1,
    )  # fmt: skip
    return out


def refusal(x: Tensor, dtype: torch.dtype) -> str:
    """Return why logits of `x` in `dtype` are not for the kernel, with the remedy; "" if they are."""
    if dtype not in TYPES:
        return f"logits are {dtype}".replace("torch.", "") + ", and must be bfloat16, float16 or float32"
    return ""


SHIPPED = {
    "K2 bf16": (163840, torch.bfloat16, None, True),
    "K2 bf16 ignored, z-loss": (163840, torch.bfloat16, -100, True),
    "K2 bf16 without gradient": (163840, torch.bfloat16, None, False),
    "laptop fp32": (4096, torch.float32, None, True),
}
"""Vocabulary, type, ignored target, gradient."""


def sample(case: str, device: str, n: int = 2048) -> None:
    """Run a case of SHIPPED with operands that hold anything."""
    V, dtype, ignored, gradient = SHIPPED[case]
    logits, targets = torch.empty(n, V, dtype=dtype, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    losses(logits, targets, ignored, 0.0 if ignored is None else 1e-4, gradient)
