"""The bytes that tensors really occupy, counted op by op: what `torch.cuda.memory_allocated` is for a GPU."""

import gc
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.model.model import K2Model
from engine.model.rope import rotation
from kernels.kept import Memory

ROWS, LENGTH = 3, 80
"""Two blocks of queries on a CPU, the second not full."""


class Live(TorchDispatchMode):
    """Remembers every storage that the context's operations make, without holding it; storages count once."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def bytes(self, besides: Iterable[Tensor] = ()) -> int:
        """Return the bytes of the storages that are still in use, without those of the tensors `besides`."""
        others = {tensor.untyped_storage()._cdata for tensor in besides}
        return sum(n for address, (ref, n) in self._made.items() if address not in others and not ref.expired())

    def made(self, tensor: Tensor) -> bool:
        """Whether an operation of the context made a tensor, or a view of it."""
        return tensor.untyped_storage()._cdata in self._made


def passed(
    model: K2Model,
    memory: Memory | None,
    autocast: bool = False,
    size: tuple[int, int] = (ROWS, LENGTH),
    cycles: bool = False,
) -> list[tuple[Tensor, list[Tensor | None], float]]:
    """Output, gradients by input and weights, and bytes kept a token, of each block on its own, for rows × tokens.

    With `cycles` what only cycles hold is freed before it is counted, which takes a while.
    """
    rows, length = size
    model.keep(memory)
    model.train()
    results = []
    turn = rotation(torch.arange(length), model.frequencies_P, model.magnitude)
    for block in model.blocks:
        model.zero_grad()
        x = torch.randn(rows, length, model.config.hidden_size, generator=torch.Generator().manual_seed(3))
        x.requires_grad_()
        live = Live()
        with live, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = block(x, turn, None, None)
        if cycles:
            gc.collect()
        kept = live.bytes([y, turn, *model.parameters(), *model.buffers()]) + x.nbytes * (not live.made(x))
        y.float().square().mean().backward()
        gradients = [x.grad, *(p.grad for p in block.parameters())]
        results.append((y.detach(), gradients, kept / (rows * length)))
    return results
