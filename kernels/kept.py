"""What autograd keeps of a forward for its backward: each tensor itself, in FP8, elsewhere, or how to make it again.

A layout may trade time for memory (engine/parallel/layout.py). `keeping` is the context of a forward that does: hooks
of autograd then decide for each tensor that would be saved, by the marks that the forward has put on it. A tensor that
is a function of others is dropped; the backward computes it again with the same operations, so gradients have the same
bits. Storage in FP8 changes gradients, and no output. Outside of the context nothing here does anything.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from kernels import fp8_rows

Make = Callable[..., Tensor]
Rows = tuple[Tensor, Tensor]
"""Codes and scales of rows in FP8."""


class Packed(Protocol):
    """What is kept in a saved tensor's place."""

    def get(self) -> Tensor:
        """Return the tensor."""
        ...


@dataclass(frozen=True)
class Whole:
    """The tensor itself."""

    tensor: Tensor

    def get(self) -> Tensor:
        """Return the tensor."""
        return self.tensor


@dataclass(frozen=True)
class Compressed:
    """A tensor's rows in FP8, and its type."""

    codes: Packed
    scales: Packed
    dtype: torch.dtype

    def get(self) -> Tensor:
        """Return the tensor, with FP8's error."""
        return fp8_rows.expand(self.codes.get(), self.scales.get(), self.dtype)


@dataclass
class Recipe:
    """How to make a tensor again. What was made stays only until each saved tensor that needs it has had it."""

    make: Make
    inputs: list[Packed]
    waiting: int = 0
    made: Tensor | None = None

    def value(self) -> Tensor:
        """Return the tensor, computed as in the forward: without gradient and in its inputs' own types."""
        made = self.made
        if made is None:
            inputs = [each.get() for each in self.inputs]
            with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
                made = self.make(*inputs)
        self.waiting -= 1
        self.made = made if self.waiting > 0 else None
        return made


@dataclass(frozen=True)
class Remade:
    """A view of a tensor that is made again."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def get(self) -> Tensor:
        """Return the view, after making its base unless another view did."""
        return self.recipe.value().as_strided(self.size, self.stride, self.offset)


WEIGHTS = "weights"
"""The part that is always made again in the context: copies of weights in a narrower type."""


class Store(Protocol):
    """Where tensors wait for their backward: `Offload` of engine/parallel/offload.py."""

    def micro_batch(self) -> AbstractContextManager[None]:
        """Return the context of one micro-batch's forward."""
        ...

    def put(self, tensor: Tensor) -> Packed:
        """Take a tensor."""
        ...


@dataclass(frozen=True)
class Memory:
    """What a layout switches on: `recompute` names the parts whose outputs the backward makes again.

    `fp8`: what is marked `compressible` is kept in FP8, unless it is made again. `store`: takes all that is kept.
    """

    recompute: frozenset[str] = frozenset()
    fp8: bool = False
    store: Store | None = None


class Keeping:
    """The decisions of one forward, about tensors by their storages. Weak references hold no memory, but see to it that
    no other storage gets the address of a freed one.
    """

    def __init__(self, memory: Memory, weights: Iterable[Tensor]) -> None:
        self.recompute, self.fp8 = {WEIGHTS, *memory.recompute}, memory.fp8
        self.store = memory.store
        self._weights = {_address(weight) for weight in weights if memory.store is not None}
        self._recipes: dict[int, tuple[StorageWeakRef, torch.dtype, Recipe]] = {}
        self._compressible: dict[int, tuple[StorageWeakRef, Rows | None]] = {}
        self._packed: dict[tuple[Any, ...], tuple[StorageWeakRef, Packed]] = {}

    def remakes(self, tensor: Tensor) -> bool:
        """Return whether a tensor, or what it is a view of, is made again."""
        entry = self._recipes.get(_address(tensor))
        return entry is not None and entry[1] == tensor.dtype

    def remake(self, output: Tensor, make: Make, inputs: Iterable[Tensor]) -> None:
        """Make `output` again as make(*inputs)."""
        recipe = Recipe(make, [self.pack(each) for each in inputs])
        self._recipes[_address(output)] = StorageWeakRef(output.untyped_storage()), output.dtype, recipe

    def compress(self, tensor: Tensor, rows: Rows | None) -> None:
        """Keep a tensor in FP8: as `rows`, if a kernel has made them already."""
        self._compressible[_address(tensor)] = StorageWeakRef(tensor.untyped_storage()), rows

    def pack(self, tensor: Tensor) -> Packed:
        """Return what to keep in a tensor's place; equal views share it."""
        if self.remakes(tensor):
            return self._remade(tensor, self._recipes[_address(tensor)][2])
        key = _address(tensor), tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset()
        if key not in self._packed:
            self._packed[key] = StorageWeakRef(tensor.untyped_storage()), self._keep(tensor)
        return self._packed[key][1]

    def _remade(self, tensor: Tensor, recipe: Recipe) -> Remade:
        recipe.waiting += 1
        return Remade(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _keep(self, tensor: Tensor) -> Packed:
        """Return what to keep of a tensor that is no view of one that is made again.

        A weight's narrower copy is made again from the weight.
        """
        if _address(tensor) in self._compressible:
            rows = self._compressible[_address(tensor)][1]
            whole = rows is not None and rows[0].shape == tensor.shape
            codes, scales = map(self._hold, rows if rows is not None and whole else fp8_rows.compress(tensor))
            return Compressed(codes, scales, tensor.dtype)
        weight = _narrowed(tensor)
        if weight is None:
            return self._hold(tensor.detach())  # an output with its graph would be a cycle, which is never freed
        dtype = tensor.dtype
        return self._remade(tensor, Recipe(lambda w: w.to(dtype), [Whole(weight.detach())]))

    def _hold(self, tensor: Tensor) -> Packed:
        """Return a tensor, or what stands for it in the store; weights stay where they are."""
        if self.store is None or _address(tensor) in self._weights:
            return Whole(tensor)
        return self.store.put(tensor)

    def forget(self) -> None:
        """Drop the marks, which hold the inputs of what is made again."""
        self._recipes.clear()
        self._compressible.clear()
        self._packed.clear()


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _narrowed(tensor: Tensor) -> Tensor | None:
    """Return the weight of which a saved tensor is autocast's copy, or a view of the copy; None if it is none."""
    node = tensor.grad_fn
    while node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    if node is None or node.name() != CAST:
        return None
    weight: Tensor | None = getattr(node.next_functions[0][0], "variable", None)  # which only a leaf's node has
    return weight


VIEWS = ("TBackward0", "TransposeBackward0", "ViewBackward0", "UnsafeViewBackward0")
CAST = "ToCopyBackward0"
_CURRENT: ContextVar[Keeping | None] = ContextVar("keeping", default=None)


@contextmanager
def keeping(memory: Memory, weights: Iterable[Tensor]) -> Iterator[None]:
    """Let what this context's operations save for a backward be kept as `memory` says; `weights` are the model's."""
    current = Keeping(memory, weights)
    token = _CURRENT.set(current)
    try:
        with torch.autograd.graph.saved_tensors_hooks(current.pack, _get):
            yield
    finally:
        _CURRENT.reset(token)
        current.forget()


def micro_batch(memory: Memory | None) -> AbstractContextManager[None]:
    """Return the context of one micro-batch's forward through all blocks of a model, or of a stage of a pipeline."""
    if memory is None or memory.store is None or not torch.is_grad_enabled():
        return nullcontext()
    return memory.store.micro_batch()


def _get(packed: Packed) -> Tensor:
    return packed.get()


def remade(part: str, output: Tensor, make: Make, *inputs: Tensor) -> Tensor:
    """Return `output`, which is make(*inputs) to the bit; the backward makes it again if `part` is recomputed."""
    current = _CURRENT.get()
    if current is not None and part in current.recompute:
        current.remake(output, make, inputs)
    return output


def derived(output: Tensor, make: Make, *inputs: Tensor) -> Tensor:
    """Return `output`, which is make(*inputs) to the bit; the backward makes it again if it does so with an input."""
    current = _CURRENT.get()
    if current is not None and any(map(current.remakes, inputs)):
        current.remake(output, make, inputs)
    return output


def compresses() -> bool:
    """Return whether this forward keeps in FP8 what is compressible."""
    current = _CURRENT.get()
    return current is not None and current.fp8


def compressible(x: Tensor, rows: Rows | None = None) -> Tensor:
    """Return x, of which the backward may read the rows as FP8 keeps them.

    `rows` are its codes and scales, where the op that read x made them (kernels/fp8_rows.py).
    """
    current = _CURRENT.get()
    if current is not None and current.fp8:
        current.compress(x, rows)
    return x


def as_type(x: Tensor, dtype: torch.dtype, part: str = "") -> Tensor:
    """Return x in another type; the backward casts again if `part` is recomputed, or if it makes x again."""
    if x.dtype == dtype:
        return x
    make = methodcaller("to", dtype)
    return remade(part, derived(x.to(dtype), make, x), make, x)


def records() -> bool:
    """Return whether this forward is one of training, whose largest logits and loads count, and is run the first time.

    A forward inside of a backward is run again (torch.utils.checkpoint with use_reentrant=False): it has counted.
    """
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1  # what torch.utils.checkpoint asks, too
