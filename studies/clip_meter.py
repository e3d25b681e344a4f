"""Measure how far QK-Clip moves the weights: an optimizer around MuonClip that adds the norm of the change.

Shapes: H heads.
"""

from math import sqrt

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.optim.muonclip import MuonClip
from engine.optim.qk_clip import clip_factors
from kernels.host import to_host


class ClipMeter:
    """MuonClip whose `step` also returns `clip_norm`: the Frobenius norm ‖ΔW‖ over all clipped rows of the step.

    A clipped row w became γᵖ·w, so it moved by (1 − γ⁻ᵖ) times its present value: no copy is needed beforehand.
    """

    def __init__(self, inner: MuonClip) -> None:
        self.inner = inner

    def step(self) -> dict[str, float]:
        """Make the step and return its figures with `clip_norm`."""
        maxima = [attention.max_logit_H.float().clone() for attention in self.inner.attentions]
        figures = self.inner.step()
        squares = sum(self._moved(i, max_logit_H) for i, max_logit_H in enumerate(maxima)) if self.inner.clips else 0.0
        return {**figures, "clip_norm": sqrt(squares)}

    def _moved(self, layer: int, max_logit_H: Tensor) -> float:
        """Return ‖ΔW‖² of one layer's clip."""
        if self.inner.clip_per == "layer":
            max_logit_H = max_logit_H.max().expand_as(max_logit_H)
        gamma_H = clip_factors(max_logit_H, self.inner.tau)
        over = np.flatnonzero(to_host(gamma_H < 1)[0])
        clipped = placed(over, gamma_H.device)
        squares = []
        for rows in self.inner.attentions[layer].clip_rows() if len(over) else ():
            now = rows.of(rows.weight.detach(), gamma_H.numel())[clipped].flatten(1)
            moved_H = now.norm(dim=1) * (gamma_H[clipped].pow(-rows.power) - 1)
            squares.append(moved_H.square().sum())
        return sum(map(float, to_host(*squares)))

    def set_lr(self, lr: float) -> None:
        """Set MuonClip's learning rate."""
        self.inner.set_lr(lr)

    def zero_grad(self) -> None:
        """Clear the gradients of MuonClip's parameters."""
        self.inner.zero_grad()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return MuonClip's state."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load MuonClip's state."""
        self.inner.load_state_dict(state)

    @property
    def state_bytes(self) -> int:
        """The bytes of MuonClip's state."""
        return self.inner.state_bytes
