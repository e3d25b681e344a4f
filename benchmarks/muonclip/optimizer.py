"""Measure an optimizer step against a loop of torch.optim.Muon, and Newton–Schulz's choice of form against all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.muonclip.clock import interleaved
from benchmarks.report import Row
from engine.model.attention import LatentAttention
from engine.model.config import K2Config
from engine.optim.muon import matrices
from engine.optim.muonclip import MuonClip
from kernels.newton_schulz import STEPS, Plan, newton_schulz

EXPERTS = (384, 128, 64)
"""As many as K2's, each a matrix 128×64."""
LAYERS = 3
ATTENTION = K2Config(
    vocab_size=4096, hidden_size=128, intermediate_size=384, moe_intermediate_size=64, num_hidden_layers=LAYERS,
    num_attention_heads=4, q_lora_rank=64, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
    n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=2.0,
    max_position_embeddings=128,
)  # fmt: skip
"""The laptop profile's; only the attention is built."""
GRID = [
    (count, n, n * aspect)
    for count, n, aspects in (
        (1, 16, (1, 4)),
        (64, 16, (1, 2, 4)),
        (1, 64, (1, 2, 3, 8)),
        (48, 32, (1, 2, 4, 8)),
        (32, 64, (1, 2, 4)),
        (128, 64, (1, 2)),
        (1, 128, (1, 2, 3, 4)),
        (12, 128, (1, 2, 4)),
        (1, 256, (1, 2, 3)),
        (4, 256, (1,)),
        (1, 384, (1,)),
    )
    for aspect in aspects
]
"""Thirty shapes: one matrix and stacks, square to eight times as long as wide."""


def rows(repeats: int) -> list[Row]:
    """Return all rows, medians over `repeats` rounds (at least 5)."""
    return [*step_rows(repeats), *grid_rows(repeats)]


class Weights(nn.Module):
    """The matrices of the step: a stack of experts, and the laptop model's attention layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.Parameter(0.02 * torch.randn(EXPERTS))
        self.attention = nn.ModuleList(LatentAttention(ATTENTION) for _ in range(LAYERS))
        for parameter in self.attention.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        for parameter in self.parameters():
            parameter.grad = torch.randn_like(parameter)


def step_rows(repeats: int) -> list[Row]:
    """Compare MuonClip's whole step, with AdamW's share and QK-Clip's check, with torch.optim.Muon on each matrix."""
    ours = MuonClip(Weights(), 1e-3, ns_dtype=torch.float32)
    singles = [w for name, p in ours.muon.items() for part in matrices(name, p.detach()) for w in part.unbind()]
    copies = [nn.Parameter(w.clone()) for w in singles]
    for copy in copies:
        copy.grad = torch.randn_like(copy)
    torchs = torch.optim.Muon(copies, lr=1e-3, adjust_lr_fn="match_rms_adamw")

    def in_fp32() -> None:
        with fp32_newton_schulz():
            torchs.step()

    seconds = interleaved({"ours": ours.step, "as shipped": torchs.step, "fp32": in_fp32}, repeats)
    figures = {name: median(times) for name, times in seconds.items()}
    case = f"optimizer step, {EXPERTS[0]} experts {EXPERTS[1]}×{EXPERTS[2]} and attention"
    return [
        Row(
            case, figures["ours"], "s", "loop of torch.optim.Muon (bf16 Newton–Schulz, as shipped)",
            figures["as shipped"], "at least 2 times as fast", figures["as shipped"] >= 2 * figures["ours"],
        ),
        Row(case, figures["ours"], "s", "the same loop, its Newton–Schulz held to fp32", figures["fp32"]),
    ]  # fmt: skip


@contextmanager
def fp32_newton_schulz() -> Iterator[None]:
    """Keep torch.optim.Muon from casting to bf16, which is slow on a processor without bf16 products."""
    cast = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = cast  # type: ignore[method-assign]


def grid_rows(repeats: int) -> list[Row]:
    """Compare the chosen form with the best of loop, batched and Gram, for every shape of the grid in fp32."""
    return [grid_row(count, n, m, repeats) for count, n, m in GRID]


def grid_row(count: int, n: int, m: int, repeats: int) -> Row:
    """Return the row of one shape, judged by the median over rounds of the ratio within a round."""
    x = torch.randn(count, n, m)
    forms: dict[str, Plan | None] = {
        "chosen": None, "loop": Plan(1, 1), "batched": Plan(count, 1), "Gram": Plan(count, STEPS),
    }  # fmt: skip
    seconds = interleaved({name: _run(x, how) for name, how in forms.items()}, repeats)
    figures = {name: median(times) for name, times in seconds.items()}
    best = min((name for name in forms if name != "chosen"), key=figures.__getitem__)
    ratio = median(chosen / other for chosen, other in zip(seconds["chosen"], seconds[best]))
    return Row(
        f"Newton–Schulz, {count} × {n}×{m}", figures["chosen"], "s", best, figures[best],
        "at most 5 % slower than the best of loop, batched, Gram", ratio <= 1.05,
    )  # fmt: skip


def _run(x: Tensor, how: Plan | None) -> Callable[[], object]:
    return lambda: newton_schulz(x, dtype=torch.float32, how=how)
