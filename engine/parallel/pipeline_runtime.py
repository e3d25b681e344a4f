"""Tables of actions (engine/parallel/pipeline_table.py) on torch's pipeline runtime.

The runtime that takes a table of one's own is private in torch 2.13.0, and so are parts of its stages: all use of them
is here, and tests/engine/test_torch_internals.py names them. torch's own stages would allocate all messages' buffers at
the start and keep what they have sent to the end of a step; here a buffer is made when its message is received, and
dropped when it is used or has gone.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime

from engine.errors import UserError
from engine.parallel import data
from engine.parallel.pipeline_table import Action
from engine.parallel.traffic import GRADIENTS_BACK, OUTPUTS, sent
from kernels.deferred import deferring, taken


def execute(
    actions: Sequence[Action],
    stages: Mapping[int, nn.Module],
    count: int,
    inputs: Sequence[tuple[Tensor, Tensor | None]],
    losses: Sequence[Callable[[Tensor], Tensor]],
    like: Tensor,
    group: dist.ProcessGroup,
) -> list[Action]:
    """Do a rank's part of a step: all forwards and, if the table has any, backwards; return what was done, in order.

    Args:
        actions: the rank's list of a complete table.
        stages: stage number → module of this rank's stages.
        count: the number of all ranks' stages.
        inputs: the ids and valid tokens of each micro-batch, all of one shape (B, T); modules are called with them, and
            with the stage before's output in place of ids.
        losses: returns the loss from the last stage's output, for each micro-batch.
        like: a tensor with the type, device and number of channels D of what stages give to each other, (…, D).
        group: the ranks of the pipeline, in its order.

    Raises RankLost if another rank has gone.

    """
    kinds = {action.kind for action in actions}
    trace: list[Action] = []
    build = taken if "W" in kinds else None
    shape = tuple(inputs[0][0].shape)
    own = [_Stage(stages[number], number, count, shape, like, group, build, trace) for number in sorted(stages)]
    runtime = _PipelineScheduleRuntime(own, len(inputs), loss_fn=lambda y, loss: loss(y), scale_grads=False)
    runtime.pipeline_order_with_comms = {runtime.rank: [_Action.from_str(str(action)) for action in actions]}
    runtime._has_backward = bool(kinds & {"B", "I"})
    for stage in own:
        stage.has_backward = runtime._has_backward
    ids = [(ids,) for ids, _ in inputs]
    masks = [{"valid_BT": valid} for _, valid in inputs]

    def step() -> None:
        runtime._step_microbatches(ids, masks, list(losses), return_outputs=False)
        for stage in own:
            stage.flush()

    with deferring() if build else nullcontext(), _own_errors():
        data.together(step)
    return trace


class _Stage(PipelineStage):
    """torch's stage with the shapes of its messages known, their buffers short-lived, and its actions recorded."""

    def __init__(
        self,
        module: nn.Module,
        number: int,
        count: int,
        shape: tuple[int, ...],
        like: Tensor,
        group: dist.ProcessGroup,
        build: Callable[[], Callable[[], None]] | None,
        trace: list[Action],
    ) -> None:
        ids = torch.empty(shape, dtype=torch.int64, device="meta")
        hidden = torch.empty(*shape, like.shape[-1], dtype=like.dtype, device="meta", requires_grad=True)
        first = hidden if number else ids
        super().__init__(module, number, count, like.device, first, hidden, group=group, dw_builder=build)
        self.trace = trace
        self.sends: list[dist.Work] = []

    def _setup_forward_recv_info(self, num_microbatches: int, has_backward: bool) -> None:
        super()._setup_forward_recv_info(1, has_backward)
        self.args_recv_info = _without_buffers(self.args_recv_info[0], num_microbatches)

    def _setup_backward_recv_info(self, num_microbatches: int) -> None:
        super()._setup_backward_recv_info(1)
        self.grad_recv_info = _without_buffers(self.grad_recv_info[0], num_microbatches)
        self.chunks = num_microbatches

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self._record("RECV_F", fwd_chunk_id)
        self._allocate(self.args_recv_info[fwd_chunk_id])
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        self._record("RECV_B", bwd_chunk_id)
        self._allocate(self.grad_recv_info[bwd_chunk_id])
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self._record("SEND_F", fwd_chunk_id)
        (output,), _ = self.fwd_cache[fwd_chunk_id]
        self._send(output.detach(), self.stage_index + 1, OUTPUTS)
        return []  # the runtime has nothing left to do

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        self._record("SEND_B", bwd_chunk_id)
        (gradient,) = self.bwd_cache.pop(bwd_chunk_id)
        assert gradient is not None, "a loss depends on what the model gives"
        self._send(gradient, self.stage_index - 1, GRADIENTS_BACK)
        return []

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **keywords: Any) -> Any:
        self._record("F", fwd_chunk_id)
        output = super().forward_one_chunk(fwd_chunk_id, *args, **keywords)
        _drop(self.args_recv_info[fwd_chunk_id])
        return output

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Tensor | None = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        self._record("B" if full_backward else "I", bwd_chunk_id)
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        _drop(self.grad_recv_info[bwd_chunk_id])

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        self._record("W", bwd_chunk_id)
        super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def flush(self) -> None:
        """Wait until everything sent is on its way."""
        for work in self.sends:
            work.wait()
        self.sends.clear()

    def _record(self, kind: str, micro: int) -> None:
        self.trace.append(Action(self.stage_index, kind, micro))

    def _send(self, tensor: Tensor, stage: int, kind: str) -> None:
        """Start to send a tensor to a stage, and let go of what has gone."""
        self.sends = [work for work in self.sends if not work.is_completed()]
        work = dist.isend(tensor.contiguous(), group=self.group, group_dst=self.stage_index_to_group_rank[stage])
        assert work is not None, "the sender is in the group"
        self.sends.append(work)
        sent(kind, tensor.nbytes, tensor.nbytes)

    def _allocate(self, infos: Sequence[Any]) -> None:
        for info in infos:
            info.buffer = torch.empty(info.tensor_meta.shape, dtype=info.tensor_meta.dtype, device=self.device)


def _without_buffers(infos: Sequence[Any], count: int) -> dict[int, tuple[Any, ...]]:
    """Return a copy of what a stage knows of its messages for each micro-batch."""
    _drop(infos)
    return {micro: tuple(map(copy, infos)) for micro in range(count)}


def _drop(infos: Sequence[Any]) -> None:
    for info in infos:
        info.buffer = None


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what a stage raised, which torch wraps in errors that show tensors; and let it not log the whole table."""
    log = logging.getLogger(_PipelineScheduleRuntime.__module__)
    before, log.disabled = log.disabled, True
    try:
        yield
    except RuntimeError as error:
        own: BaseException | None = error
        while own is not None and not isinstance(own, data.RankLost | UserError):
            own = own.__cause__
        if own is None:
            raise
        raise own from own.__cause__
    finally:
        log.disabled = before
