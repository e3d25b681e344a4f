"""Make Triton's interpreter compute what a GPU does where it does not by itself (3.6 to 3.9).

As shipped it multiplies bf16 and FP8 as raw bits in `tl.dot`, and truncates where a conversion to a narrower float must
round to nearest, ties to even (triton issue 11584). Here torch converts, and products are formed in fp32.
"""

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

TYPES = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64,
    "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2,
}  # fmt: skip
SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_convert = interpreter._convert_float


def repair() -> None:
    """Replace the interpreter's conversions and products for the life of this process."""
    interpreter._convert_float = converted
    interpreter.InterpreterBuilder.create_dot = dot


def as_torch(bits: Any, dtype: Any) -> torch.Tensor:
    """Return an array of a Triton type's bits as numbers."""
    kind = TYPES[dtype.name]
    plain = np.ascontiguousarray(bits).view(f"i{kind.itemsize}" if kind.itemsize > 1 else "u1")
    return torch.from_numpy(plain.copy()).view(kind)


def converted(bits: Any, source: Any, target: Any, mode: Any) -> Any:
    """Return an array of `source` numbers as the bits of `target` numbers."""
    if source.name not in TYPES or target.name not in TYPES:
        return _convert(bits, source, target, mode)
    values = as_torch(bits.reshape(-1), source)
    kind = TYPES[target.name]
    out = (values if source.name == "fp64" else values.float()).to(kind)
    return out.view(SIGNED[kind.itemsize]).numpy().view(UNSIGNED[kind.itemsize]).reshape(bits.shape)


def dot(_: Any, a: Any, b: Any, total: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """Multiply two blocks and add `total`, in its type."""
    product = np.matmul(widened(a), widened(b), dtype=total.data.dtype)
    return interpreter.TensorHandle(product + total.data, total.dtype.scalar)


def widened(handle: Any) -> Any:
    """Return a block's numbers, bf16 and FP8 in fp32."""
    scalar = handle.dtype.scalar
    if scalar.is_floating() and (scalar.name == "bf16" or scalar.primitive_bitwidth == 8):
        return as_torch(handle.data.reshape(-1), scalar).float().numpy().reshape(handle.data.shape)
    return handle.data
