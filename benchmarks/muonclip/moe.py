"""Measure the routed experts of a layer, forward and backward, beside a loop over experts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.muonclip.clock import medians
from benchmarks.report import Row
from kernels.experts import experts

TOKENS, EXPERTS, K, WIDTH, HIDDEN = 4096, 64, 8, 128, 64


def loop(x_ND: Tensor, chosen_Nk: Tensor, gate_Nk: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> Tensor:
    """Return the experts' sum, one expert after the other in place, as in transformers' eager path."""
    y_ND = torch.zeros_like(x_ND)
    for e in range(len(gate_up_EFD)):
        tokens, slot = torch.where(chosen_Nk == e)
        g, u = F.linear(x_ND[tokens], gate_up_EFD[e]).chunk(2, dim=-1)
        y_ND.index_add_(0, tokens, F.linear(F.silu(g) * u, down_EDF[e]) * gate_Nk[tokens, slot, None])
    return y_ND


def rows(repeats: int) -> list[Row]:
    """Return all rows of this part."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    chosen = normal(TOKENS, EXPERTS).topk(K, dim=-1).indices
    given = (normal(TOKENS, WIDTH), normal(TOKENS, K).sigmoid())
    weights = (normal(EXPERTS, 2 * HIDDEN, WIDTH) * 0.05, normal(EXPERTS, WIDTH, HIDDEN) * 0.05)
    leaves = [t.requires_grad_() for t in (*given, *weights)]
    dy = normal(TOKENS, WIDTH)

    def both_ways(op: Callable[..., Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        x, gate, gate_up, down = leaves
        op(x, chosen, gate, gate_up, down).backward(dy)

    measured = medians(repeats, {"ours": lambda: both_ways(experts), "loop": lambda: both_ways(loop)})
    ratio = measured["loop"] / measured["ours"]
    case = f"MoE layer, {EXPERTS} experts top-{K}, {TOKENS} tokens, forward + backward, fp32"
    target = "1.5 times as fast (goal 2)"
    return [Row(case, measured["ours"], "s", "loop over experts", measured["loop"], target, ratio >= 1.5)]
