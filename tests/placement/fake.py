"""A device that exists nowhere, on which a pass shows whether all its tensors are on one device.

`fakegpu` is registered from Python, which the CPU build of torch accepts, and FakeTensorMode carries shapes, types and
devices through every op, but no numbers: an op that meets a tensor left on the CPU raises, with the line that called
it, and so does one that wants a number (`.item()`, `nonzero`). What the host must read comes through
kernels.host.to_host, with the values that a real pass on the CPU has recorded. Registering the device changes the whole
process and cannot be undone, so passes run in one of their own (__main__.py).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from engine.device import working_on
from engine.model.tensorfile import TensorFiles
from engine.training.resume import CheckpointStore
from engine.training.state import TrainState
from kernels import host
from tests.placement.replaced import replaced

NAME = "fakegpu"
Read = list[host.Host]


class _Backend(backend_registration._DummyBackendModule):
    """The module of the device, which autocast asks for its types."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make the device known to this process. Autocast does nothing on it, since types are no matter of placement."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    _LIBRARY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


_LIBRARY = torch.library.Library("_", "IMPL")


def recorded(run: Callable[[], object]) -> list[Read]:
    """Run a pass for real on the CPU; return copies of what the host read, call by call."""
    calls: list[Read] = []
    real = host.copied

    def copied(tensors: list[Tensor]) -> Read:
        values = real(tensors)
        calls.append([value.copy() for value in values])
        return values

    with replaced(host, "copied", copied):
        run()
    return calls


def on_fake_device(run: Callable[[], object], calls: list[Read]) -> None:
    """Run the same pass on the fake device, where the host reads the recorded values.

    Raises what an op raises that meets another device or wants a number, or AssertionError where the host reads other
    tensors than on the CPU, or where a tensor of the training's state is not on the device.
    """
    left = iter(calls)

    def copied(tensors: list[Tensor]) -> Read:
        values = next(left, None)
        shapes = [(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for tensor in tensors]
        assert values is not None, f"to_host reads {shapes}, and on the CPU it had read all by then"
        before = [(str(value.dtype), value.shape) for value in values]
        assert shapes == before, f"to_host reads {shapes}, and on the CPU it read {before}"
        return values

    with (
        replaced(host, "copied", copied),
        replaced(CheckpointStore, "save", _checked),
        replaced(TensorFiles, "__getitem__", _really_read),
        replaced(F, "grouped_mm", _grouped_mm),
        replaced(fake_tensor, "CONSTANT_NUMEL_LIMIT", -1),  # else it would compute with single numbers for real
        replaced(torch.Tensor, "numpy", _numpy),
        working_on(NAME),
        FakeTensorMode(allow_non_fake_inputs=True),
        _Crossings(),
    ):
        run()
    assert next(left, None) is None, "the host read less than on the CPU"


class _Crossings(TorchDispatchMode):
    """Refuse what torch allows between devices: a copy to the host past `to_host`, and indices left on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in COPIES and out.device.type == "cpu":
            sources = [t for t in args if isinstance(t, Tensor) and t.device.type != "cpu"]
            assert not sources, f"{func} copies to the host past to_host"
        if func in INDEXING and args[0].device.type != "cpu":
            left = [index for index in args[1] if index is not None and index.device.type == "cpu"]
            assert not left, f"{func} gets its indices from the CPU"
        return out


COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXING = {
    torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default,
}  # fmt: skip
_get, _multiply, _as_array = TensorFiles.__getitem__, F.grouped_mm, torch.Tensor.numpy


def _numpy(tensor: Tensor, **how: Any) -> Any:
    """Refuse the numbers of a fake tensor, which torch would give with a warning only: they are whatever is there."""
    assert not isinstance(tensor, FakeTensor), "numpy() wants numbers past to_host"
    return _as_array(tensor, **how)


def _really_read(files: TensorFiles, name: str) -> Tensor:
    """Read a file's tensor as it is, on the CPU: safetensors makes it from bytes, not by ops."""
    with unset_fake_temporarily():
        return _get(files, name)


def _grouped_mm(a: Tensor, b: Tensor, *, offs: Tensor) -> Tensor:
    """Multiply in bf16, the only type that torch 2.13.0 carries shapes through (its real kernels take fp32 too)."""
    return _multiply(a.bfloat16(), b.bfloat16(), offs=offs).to(a.dtype)


def _checked(store: CheckpointStore, state: TrainState) -> None:
    """Write no checkpoint, since there are no numbers, but see that all of a training's state is on the device."""
    elsewhere = [name for name, tensor in state.tensors().items() if tensor.device.type != NAME]
    assert elsewhere in ([], ["optimizer:clipped"]), f"not on the device: {elsewhere}"
