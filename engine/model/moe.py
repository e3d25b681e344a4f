"""Mixture of experts: sigmoid router with an auxiliary-loss-free bias, stacked routed experts, a shared expert.

Shapes: B batch, T positions, N = B·T tokens, D model channels, E routed experts, k chosen ones, F hidden channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.config import K2Config
from engine.model.layers import SwiGLU, WideBuffers
from engine.parallel.exchange import exchanged_experts
from engine.parallel.mesh import mesh
from kernels.experts import counted, experts
from kernels.kept import as_type, records
from kernels.precision import operand_type, wide


class Router(WideBuffers):
    """The router, with scores in fp32; the bias affects only the choice, gates use unbiased scores (k2-facts 1.3).

    `load_E` counts the tokens each expert received in training forwards since `balance_`.
    """

    e_score_correction_bias: Tensor
    load_E: Tensor

    def __init__(self, config: K2Config) -> None:
        super().__init__()
        self.k, self.factor = config.num_experts_per_tok, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.register_buffer("load_E", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts (N, k) and their gates (N, k) in fp32, which sum to the scaling factor."""
        with torch.autocast(x_ND.device.type, enabled=False):
            scores = torch.sigmoid(F.linear(as_type(x_ND, wide(x_ND.dtype)), self.weight.to(wide(self.weight.dtype))))
        return self.choose(scores)

    def choose(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Return chosen experts and gates from the scores."""
        chosen = (scores_NE.detach() + self.e_score_correction_bias).topk(self.k, dim=-1).indices
        gates = scores_NE.gather(-1, chosen)
        return chosen, gates / (gates.sum(-1, keepdim=True) + 1e-20) * self.factor

    @torch.no_grad()
    def balance_(self, rate: float) -> Tensor:
        """Move the bias one step towards even load, reset the counts; return the max/mean load (0-d), 1 without load.

        b ← b + rate·(sign(e) − mean sign(e)), e the shortfall of an expert's load: Moonlight's form, which keeps the
        bias from drifting and chooses the same experts as DeepSeek-V3's.
        """
        load = self.load_E.float()
        mean = load.mean()
        if rate:
            sign = torch.sign(mean - load)
            self.e_score_correction_bias += rate * (sign - sign.mean())
        self.load_E.zero_()
        return torch.where(mean > 0, load.max() / mean, 1.0)


class StackedExperts(nn.Module):
    """The routed experts of a layer as two 3-D weights, gate and up rows together, and down; all or a range of them."""

    def __init__(self, config: K2Config, experts: range | None = None) -> None:
        super().__init__()
        E = config.n_routed_experts if experts is None else len(experts)
        D, F_ = config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))


class MoE(nn.Module):
    """y = Σ gate·expert(x) over the k chosen, plus the unscaled shared expert; `experts` is what this rank holds."""

    def __init__(self, config: K2Config, experts: range | None = None) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = StackedExperts(config, experts)
        self.shared_experts = SwiGLU(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D); under autocast the experts compute in its type.

        Tokens that are not `valid_BT` are padding and do not count in the load; neither does a forward that is repeated
        in the backward pass.
        """
        x_ND = x_BTD.flatten(0, -2)
        chosen, gates = self.gate(x_ND)
        weights = self.experts.gate_up_proj, self.experts.down_proj
        y = self.routed(as_type(x_ND, operand_type(x_ND)), chosen, gates, *weights)
        if self.training and records():
            valid = None if valid_BT is None else valid_BT.flatten()[:, None].expand_as(chosen).flatten()
            self.gate.load_E += counted(chosen.flatten(), self.gate.load_E.numel(), valid)
        out: Tensor = y.view_as(x_BTD) + self.shared_experts(x_BTD)
        return out

    def routed(self, x_ND: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Apply the routed experts with these weights of them, wherever the others are; (N, D).

        If this rank holds a part of the experts only, all ranks of its expert group must call this together.
        """
        n_experts = self.gate.load_E.numel()
        if len(gate_up) == n_experts:
            return experts(x_ND, chosen, gates, gate_up, down)
        return exchanged_experts(x_ND, chosen, gates, gate_up, down, n_experts, mesh().group("ep"))
