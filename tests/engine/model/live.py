"""The bytes that tensors really occupy, counted op by op: what `torch.cuda.max_memory_allocated` is for a GPU."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
