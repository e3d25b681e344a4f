"""The per-head maximum of the softmax input, on which QK-Clip acts (arXiv 2507.20534, section 2.1).

Shapes: B batch, H heads, T positions, S keys, E channels of a query or key head.
"""

import torch
from torch import Tensor

from kernels.precision import wide, without_autocast

CHUNK = 128


def reference(q_BHTE: Tensor, k_BHTE: Tensor, scale: float) -> Tensor:
    """Specify the op with all logits at once, masked pairs left out; shape (H,), fp32 or better."""
    T = q_BHTE.shape[2]
    q, k = (t.to(wide(t.dtype)) for t in (q_BHTE, k_BHTE))
    logits = q @ k.mT * scale
    future = torch.ones(T, T, dtype=torch.bool, device=logits.device).triu(1)
    return logits.masked_fill(future, float("-inf")).amax((0, 2, 3))


def largest(logits_BHTS: Tensor, valid_BT: Tensor | None) -> Tensor:
    """Return each head's largest logit, (H,), over the queries that are `valid_BT` (None: all); -inf if none is."""
    if valid_BT is None:
        return logits_BHTS.amax((0, 2, 3))
    return logits_BHTS.amax(-1).masked_fill(~valid_BT[:, None], float("-inf")).amax((0, 2))


@torch.no_grad()
@without_autocast
def max_logit(q_BHTE: Tensor, k_BHTE: Tensor, scale: float, valid_BT: Tensor | None = None) -> Tensor:
    """Return the exact maximum, computed in chunks of queries so that memory is linear in T; (H,), signed.

    Products are computed in fp32 (fp64 for fp64) from the inputs' own values, as in the attention kernel.
    Queries that are not `valid_BT` are left out.
    """
    _, H, T, _ = q_BHTE.shape
    q, k = (t.to(wide(t.dtype)) for t in (q_BHTE, k_BHTE))
    best = q.new_full((H,), float("-inf"))
    for start in range(0, T, CHUNK):
        stop = min(start + CHUNK, T)
        logits = q[:, :, start:stop] @ k[:, :, :stop].mT
        future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu(1)
        logits[..., start:].masked_fill_(future, float("-inf"))
        best = torch.maximum(best, largest(logits, None if valid_BT is None else valid_BT[:, start:stop]) * scale)
    return best
