"""Muon's update for a set of weights: momentum, Newton–Schulz over equal shapes at once, decoupled decay.

Shapes: G matrices of one shape, n rows, m columns with n ≤ m.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from kernels.newton_schulz import STEPS, newton_schulz

RMS_TARGET = 0.2
"""Root mean square of an update before the learning rate, that of AdamW in practice (Moonlight, Table 8)."""


def matrices(name: str, tensor: Tensor) -> list[Tensor]:
    """Views of a weight as the matrices that Muon treats apart, each (…, n, m): gate and up are two."""
    return list(tensor.chunk(2, dim=-2)) if name.endswith("gate_up_proj") else [tensor]


def orthogonalised(updates: list[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Newton–Schulz of each (…, n, m) times 0.2·√max(n, m). Equal shapes, turned or not, go as one batch."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, update in enumerate(updates):
        n, m = update.shape[-2:]
        groups[(min(n, m), max(n, m))].append(index)
    out: list[Tensor] = list(updates)
    for (n, m), members in groups.items():
        wide = [updates[i] if updates[i].shape[-2] == n else updates[i].mT for i in members]
        batch_Gnm = torch.cat([w.reshape(-1, n, m) for w in wide])
        result = newton_schulz(batch_Gnm, steps, dtype) * (RMS_TARGET * math.sqrt(m))
        for i, w, part in zip(members, wide, result.split([w.numel() // (n * m) for w in wide])):
            shaped = part.view(w.shape)
            out[i] = shaped if updates[i].shape[-2] == n else shaped.mT
    return out


@torch.no_grad()
def muon_(
    weights: dict[str, nn.Parameter],
    momenta: dict[str, Tensor],
    *,
    lr: float,
    decay: float,
    mu: float,
    steps: int = STEPS,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """One step in place: M ← μM + G; W ← W − lr·(0.2·√max(n,m)·NS(G + μM) + decay·W) (k2-facts 2.1, Nesterov 2.2)."""
    pieces, places = [], []
    for name, weight in weights.items():
        if weight.grad is None:
            continue
        momenta[name].mul_(mu).add_(weight.grad)
        pieces += matrices(name, weight.grad.add(momenta[name], alpha=mu))
        places += matrices(name, weight.data)
    for place, update in zip(places, orthogonalised(pieces, steps, dtype)):
        place.mul_(1 - lr * decay).add_(update, alpha=-lr)
