"""MuonClip: Muon on the weight matrices, AdamW on the rest, QK-Clip after the step (arXiv 2507.20534, section 2.1)."""

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muon import muon_
from engine.optim.qk_clip import check_maxima, qk_clip_
from kernels.newton_schulz import STEPS

ADAMW_STATE = ("exp_avg", "exp_avg_sq", "step")


def is_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves this weight: at least 2-D, neither embedding nor head (Moonlight's rule)."""
    return parameter.ndim >= 2 and not name.startswith(("embed_tokens.", "lm_head."))


class MuonClip:
    """The optimizer of K2. `tau` 0 switches QK-Clip off; `adamw_lr_factor` scales the rate of the AdamW group.

    `step` reads the per-head maxima that the model recorded since the last step, over all micro-batches, and
    resets them. Both groups share the rate and λ by default, as Moonlight's do.
    """

    def __init__(
        self,
        model: K2Model,
        lr: float,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        tau: float = 100.0,
        adamw_lr_factor: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        ns_steps: int = STEPS,
        ns_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.model, self.lr, self.weight_decay, self.momentum, self.tau = model, lr, weight_decay, momentum, tau
        self.adamw_lr_factor, self.ns_steps, self.ns_dtype = adamw_lr_factor, ns_steps, ns_dtype
        named = dict(model.named_parameters())
        self.muon = {name: p for name, p in named.items() if is_muon(name, p)}
        self.rest = {name: p for name, p in named.items() if name not in self.muon}
        self.momenta = {name: torch.zeros_like(p) for name, p in self.muon.items()}
        self.adamw = torch.optim.AdamW(
            self.rest.values(), lr=lr * adamw_lr_factor, betas=betas, eps=1e-8, weight_decay=weight_decay, fused=True
        )

    def set_lr(self, lr: float) -> None:
        """Set the rate of the steps to come, for both groups."""
        self.lr = lr
        for group in self.adamw.param_groups:
            group["lr"] = lr * self.adamw_lr_factor
            # λ multiplies the common rate, not the AdamW group's own (k2-facts 2.2).
            group["weight_decay"] = self.weight_decay / self.adamw_lr_factor if self.adamw_lr_factor else 0.0

    def step(self) -> dict[str, float]:
        """Move all weights, then clip. Returns `max_logit` (largest over heads) and `clipped_heads`.

        Raises UserError, having changed nothing, where a maximum is NaN or +inf.
        """
        attentions = self.model.attentions()
        check_maxima(attentions)
        self.set_lr(self.lr)
        hyper = {"lr": self.lr, "decay": self.weight_decay, "mu": self.momentum}
        muon_(self.muon, self.momenta, **hyper, steps=self.ns_steps, dtype=self.ns_dtype)
        self.adamw.step()
        largest = max(float(attention.max_logit_H.max()) for attention in attentions)
        clipped = sum(qk_clip_(attention, self.tau) for attention in attentions) if self.tau > 0 else 0
        for attention in attentions:
            attention.reset_max_logit()
        return {"max_logit": largest, "clipped_heads": float(clipped)}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.model.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Momenta by weight name: `muon/NAME`, and `adamw/NAME/…` for weights that have taken a step."""
        out = {f"muon/{name}": momentum for name, momentum in self.momenta.items()}
        for name, parameter in self.rest.items():
            for key, value in self.adamw.state.get(parameter, {}).items():
                out[f"adamw/{name}/{key}"] = value
        return out

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a `state_dict`. Raises UserError naming the first weight whose state is missing."""
        for name, momentum in self.momenta.items():
            if f"muon/{name}" not in state:
                raise UserError(f"optimizer state: momentum of {name} is missing; start the stage afresh")
            momentum.copy_(state[f"muon/{name}"])
        for name, parameter in self.rest.items():
            kept = {key: state[f"adamw/{name}/{key}"].clone() for key in ADAMW_STATE if f"adamw/{name}/{key}" in state}
            if kept:
                self.adamw.state[parameter] = kept
