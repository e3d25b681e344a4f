"""DeepSpeed's engine with its ZeRO optimizer, and the gradients while that has them.

DeepSpeed is optional (requirements/deepspeed.txt), imported when an optimizer is made, and unknown to the type checker.
Where its documented interface has no word for something, the ZeRO optimizer of version 0.19.8 is used itself:
`make test-deepspeed` holds it to what is relied on here.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.device import CUDA, device
from engine.errors import UserError
from engine.parallel.mesh import mesh

REQUIREMENTS = "requirements/deepspeed.txt"


class PartitionedGradients:
    """The gradients while DeepSpeed has them: summed over the ranks, each rank's partition on that rank."""

    def __init__(self, zero: Any, parameters: list[nn.Parameter], stage: int, offload: bool) -> None:
        self.zero, self.parameters, self.stage, self.offload = zero, parameters, stage, offload
        self.drop()
        if stage == 2:  # its hooks send each gradient to its owner as the backward makes it
            zero.unregister_grad_acc_post_hooks()
            zero.register_grad_acc_post_hook(self._after_backward)
            zero.enter_backward()

    def _after_backward(self) -> None:
        """Reduce what a micro-batch's backward has left in DeepSpeed's buckets, and expect the next one."""
        self.zero.overlapping_partition_gradients_reduce_epilogue()
        self.zero.exit_backward()
        self.zero.clear_backward_seen_flag()
        self.zero.enter_backward()

    def reduce_(self) -> None:
        """Sum the gradients over the ranks; a weight without one counts as zero."""
        if self.stage == 2:
            self.zero.finalize_gradient_accumulation_boundary()
            return
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.zero.set_gradient_accumulation_boundary(True)
        self.zero.setup_buckets()
        self.zero.reduce_gradients()

    def norm(self) -> Tensor:
        """Return the norm of the summed gradients, the same bits on all ranks; NaN if it is not finite."""
        norm: Tensor = self.zero.scaled_global_norm()
        return torch.where(norm < 0, torch.nan, norm)  # -1 is DeepSpeed's word for it

    def clip_(self, factor: Tensor) -> None:
        """Multiply the gradients by `factor`."""
        own = [self.zero.single_partition_of_fp32_groups[0].grad] if self.offload else self.zero.averaged_gradients[0]
        for gradient in own:
            gradient.mul_(factor)

    def drop(self) -> None:
        """Drop the gradients, reduced or not, as if no backward had been."""
        zero = self.zero
        zero.zero_grad()
        for of_groups in (zero.averaged_gradients, zero.all_grad_tensors):
            of_groups.update(dict.fromkeys(of_groups))
        zero.micro_step_id = -1
        if self.offload:
            zero._offload_accumulated_param_ids = set()
            zero.reset_cpu_buffers()
        zero.set_gradient_accumulation_boundary(False)


def refuse(model: nn.Module) -> None:
    """Raise UserError where DeepSpeed is not installed, or cannot train this model as it lies."""
    if stated := mesh().layout.stated:
        raise UserError(
            f"optimizer.backend: deepspeed trains whole models under plain data parallelism, and compute.yml has the "
            f"layout {stated}: take the field layout out, or set backend: ours."
        )
    if "optimizer" in mesh().layout.offload:
        raise UserError(
            "optimizer.backend: deepspeed keeps the optimizer's state by itself, and compute.yml's layout.offload "
            "names optimizer: take it out, and set optimizer.cpu_offload: true, or set backend: ours."
        )
    narrow = [name for name, p in model.named_parameters() if p.dtype != torch.float32]
    if narrow:
        raise UserError(
            f"optimizer.backend: deepspeed updates fp32 weights, and {narrow[0]} is not: set backend: ours, which "
            "keeps fp32 masters."
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "optimizer.backend: deepspeed needs the package, which is not installed: `pip install --no-deps -r "
            f"{REQUIREMENTS}`, or set backend: ours."
        )


def initialized(model: nn.Module, adamw: torch.optim.AdamW, stage: int, offload: bool) -> tuple[Any, Any]:
    """Return DeepSpeed's engine around a model, and the engine's ZeRO optimizer.

    A process that is alone gets a process group of its own, which DeepSpeed does not do without.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": stage == 2}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device().type == CUDA}
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # batches and their pieces are the loop's
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_allreduce_op": "sum",
        "gradient_clipping": 0.0,
        "steps_per_print": 1 << 62,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled at the first start
        "zero_optimization": zero,
    }
    # else DeepSpeed takes a GPU wherever there is one, and of several that of a LOCAL_RANK which may not be torchrun's
    with _variables(DS_ACCELERATOR=device().type, LOCAL_RANK=str(device().index or 0)):
        deepspeed = _joined()
        engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=settings, dist_init_required=False)
    return engine, engine.optimizer


def _joined() -> Any:
    """Return the package after it has joined the process group."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # importing it sets another
    # A kernel that ZeRO does not use: it would be compiled at the first start, and a kill meanwhile leaves a lock for
    # which every later start waits
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "cpu:gloo,cuda:nccl" if device().type == CUDA else "gloo"
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but torch does not export it by name
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(backend, dist_init_required=False)
    return deepspeed


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Set variables of the environment while the context lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
