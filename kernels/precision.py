"""The types of sums, and of products if the processor has no multiplier for the operands' own type."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Op = TypeVar("Op", bound=Callable[..., Any])


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums over `dtype` are computed: fp32, or fp64 for fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@cache
def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def product_type(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return the type for products of `dtype`: fp32 for bf16 on a CPU that emulates bf16 (at a fiftieth of the speed).

    Products of bf16 values summed in fp32 equal those of a bf16 multiplier, except for the order of the sum.
    """
    emulated = dtype == torch.bfloat16 and device == "cpu" and not _cpu_multiplies_bf16()
    return torch.float32 if emulated else dtype


def operand_type(x: Tensor) -> torch.dtype:
    """Return the type to which the operands of a product are rounded: autocast's if it is on, else x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def without_autocast(op: Op) -> Op:
    """Run `op` with autocast off on its first tensor's device, so that products use their operands' own types.

    Autocast would narrow fp32 products, and in a backward only if the caller's is still on: gradients and forward would
    not belong to the same function.
    """

    @wraps(op)
    def alone(*args: Any, **keywords: Any) -> Any:
        device = next(value.device.type for value in args if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return op(*args, **keywords)

    return cast(Op, alone)
