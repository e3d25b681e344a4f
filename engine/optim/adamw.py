"""AdamW with torch's fused kernel, but without torch's Optimizer class.

The first use of torch's Optimizer imports torch's compiler, which is not used here and takes 2 s per training process.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

STATE = ("exp_avg", "exp_avg_sq", "step")


class AdamW:
    """Updates `tensors` in place from their `.grad`, with the same bits as torch.optim.AdamW(…, fused=True).

    `state` holds STATE for each tensor that has taken a step; `lr` and `weight_decay` apply from the next step on.
    """

    def __init__(self, tensors: Sequence[Tensor], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        self.tensors, self.lr, self.betas, self.weight_decay = list(tensors), lr, betas, weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update each tensor that has a gradient, by torch 2.13.0's `torch.optim.adam.adam`, which is undocumented."""
        moved = [tensor for tensor in self.tensors if tensor.grad is not None]
        states = [self._state(tensor) for tensor in moved]
        first, second, steps = ([state[name] for state in states] for name in STATE)
        adam(
            moved,
            [tensor.grad for tensor in moved if tensor.grad is not None],
            first,
            second,
            [],
            steps,
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def _state(self, tensor: Tensor) -> dict[str, Tensor]:
        if tensor not in self.state:
            step = torch.zeros((), dtype=torch.float32, device=tensor.device)
            self.state[tensor] = dict(zip(STATE, (torch.zeros_like(tensor), torch.zeros_like(tensor), step)))
        return self.state[tensor]
