"""Routed experts that are cut over a group of ranks: each row goes to the rank of its expert, and its result back.

A rank sorts its rows by expert, which sorts them by rank too, and sends them in one all-to-all; the ranks have told
each other before how many rows each expert gets. The rank of the experts sends the results back, where they are summed
over the chosen experts as in kernels.experts. The gate is applied once, at the expert: gates travel beside the rows.

All ranks of the group must call this together, also those without tokens. The gradient of an expert's weights is then
complete over the group: nothing is left to reduce in it.

Shapes: N tokens of this rank, k experts per token, M = N·k rows sent, R rows received, P ranks, E experts in all, L of
each rank, D model channels, F hidden channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.parallel import data
from engine.parallel.traffic import COUNTS, GATES, ROWS, sent
from kernels.experts import counted, experts, gather_sum
from kernels.host import to_host

ROWS_OUT, ROWS_BACK = ROWS
GATES_OUT, GATES_BACK = GATES


Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Route:
    """Where the rows of a rank's tokens go: their order by expert, and how many each rank sends to each other one."""

    group: dist.ProcessGroup
    order_M: Tensor
    place_Nk: Tensor
    expert_R: Tensor
    sends: list[int]
    receives: list[int]

    @classmethod
    def of(cls, chosen_Nk: Tensor, n_experts: int, group: dist.ProcessGroup) -> Self:
        """Tell the group's ranks how many rows their experts get of this rank's tokens; return the way of the rows.

        `expert_R` numbers the experts of this rank from 0. The host waits once, for the numbers of rows.
        """
        ranks = group.size()
        chosen_M = chosen_Nk.reshape(-1)
        order_M = chosen_M.argsort(stable=True)
        numbers_M = torch.arange(len(order_M), device=order_M.device)
        place_Nk = torch.empty_like(order_M).scatter_(0, order_M, numbers_M).view_as(chosen_Nk)
        ours_PL = counted(chosen_M, n_experts).view(ranks, -1)
        theirs_PL = _all_to_all(ours_PL, [1] * ranks, [1] * ranks, group, COUNTS)
        sends, receives = (rows.tolist() for rows in to_host(ours_PL.sum(1), theirs_PL.sum(1)))
        numbers_PL = torch.arange(theirs_PL.shape[1], device=theirs_PL.device).expand_as(theirs_PL)
        expert_R = numbers_PL.flatten().repeat_interleave(theirs_PL.flatten(), output_size=sum(receives))
        return cls(group, order_M, place_Nk, expert_R, sends, receives)

    def out(self, x_ND: Tensor) -> Tensor:
        """Send each token's row to its experts' ranks; return the rows for this rank's experts (R, D)."""
        rows_MD = x_ND[self.order_M // self.place_Nk.shape[1]]
        return _all_to_all(rows_MD, self.sends, self.receives, self.group, ROWS_OUT)

    def back(self, y_RD: Tensor) -> Tensor:
        """Send rows back to their tokens' ranks; return the sums over each of this rank's tokens' experts (N, D)."""
        return gather_sum(_all_to_all(y_RD, self.receives, self.sends, self.group, ROWS_BACK), self.place_Nk)

    def gates_out(self, gate_Nk: Tensor) -> Tensor:
        """Send each row's gate where its row goes; return those of the rows for this rank's experts (R, 1)."""
        gate_M1 = gate_Nk.reshape(-1, 1)[self.order_M]
        return _all_to_all(gate_M1, self.sends, self.receives, self.group, GATES_OUT)

    def gates_back(self, gate_R1: Tensor) -> Tensor:
        """Send what belongs to gates back to their tokens' ranks; return it for this rank's tokens (N, k)."""
        return _all_to_all(gate_R1, self.receives, self.sends, self.group, GATES_BACK)[self.place_Nk, 0]


def _all_to_all(rows: Tensor, sends: list[int], receives: list[int], group: dist.ProcessGroup, kind: str) -> Tensor:
    """Send consecutive rows to the group's ranks; return those received, in the ranks' order."""
    received = rows.new_empty(sum(receives), *rows.shape[1:])
    data.together(lambda: dist.all_to_all_single(received, rows.contiguous(), receives, sends, group=group))
    width = rows.element_size() * rows.shape[1:].numel()
    sent(kind, width * sum(sends), width * (sum(sends) - sends[group.rank()]))
    return received


class _Sent(torch.autograd.Function):
    """`there(rows)`, whose gradient takes the way `back`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Way, back: Way) -> Tensor:
        ctx.back = back
        return there(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradients[0]), None, None


def exchanged_experts(
    x_ND: Tensor,
    chosen_Nk: Tensor,
    gate_Nk: Tensor,
    gate_up_LFD: Tensor,
    down_LDF: Tensor,
    n_experts: int,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Apply the `n_experts` routed experts, of which the ranks of `group` hold equal parts in its order; (N, D).

    The other arguments are those of `kernels.experts.experts`; `chosen_Nk` numbers the experts of all ranks. The row of
    a token crosses once for each of its experts on another rank, forward and back, in x's type.

    Raises ValueError if the parts of the group's ranks are not all experts.
    """
    if group is None or len(gate_up_LFD) * group.size() != n_experts:
        raise ValueError(
            f"{len(gate_up_LFD)} of {n_experts} experts are here, and the group has {group.size() if group else 1} "
            "ranks: set the layout of which the model is a part (engine.parallel.mesh.laid_out)"
        )
    route = Route.of(chosen_Nk, n_experts, group)
    rows_RD: Tensor = _Sent.apply(x_ND, route.out, route.back)
    gates_R1: Tensor = _Sent.apply(gate_Nk, route.gates_out, route.gates_back)
    y_RD = experts(rows_RD, route.expert_R[:, None], gates_R1, gate_up_LFD, down_LDF)
    y_ND: Tensor = _Sent.apply(y_RD, route.back, route.out)
    return y_ND
