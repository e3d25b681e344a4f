"""Compile recorded launches for Hopper, sm_90a, without a GPU, and read what the compiler made of them.

Triton's wheel carries NVIDIA's assembler and its tools. A launch is compiled with the types, constants and divisibility
by 16 that the just-in-time compiler would derive from its arguments.
"""

import importlib
import pkgutil
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import gpu
from kernels.launching import Launch, recording

HOPPER = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TYPES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float8_e4m3fn: "fp8e4nv",
    torch.int32: "i32", torch.int64: "i64", torch.bool: "i1", torch.uint8: "u8",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages")


SHARED_KIB = 227
"""The most shared memory that a program can have on an H100, H200 or H800."""


@dataclass(frozen=True)
class Figures:
    """What a compiled kernel needs, a program: registers a thread, bytes of stack and shared memory; and its products.

    `wgmma` and `mma` count the machine's instructions for products: Hopper's own, and the older ones, at about half
    their rate; `matrix` is whether the kernel multiplies matrices of 16 bit or less. `stack` holds what registers could
    not: spilled, thus slow.
    """

    kernel: str
    warps: int
    stages: int
    registers: int
    stack: int
    shared: int
    matrix: bool
    wgmma: int
    mma: int

    def faults(self, allowed_stack: int = 0) -> list[str]:
        """Return what makes the kernel unfit for Hopper, in words."""
        faults = []
        if self.stack > allowed_stack:
            faults.append(f"{self.stack} bytes of stack: registers are spilled; make its tiles smaller")
        if self.matrix and not self.wgmma:
            faults.append("no product is a wgmma; give its tiles 64 rows or more")
        if self.mma:
            faults.append(f"{self.mma} products fall back from wgmma to mma; give its tiles 64 rows or more")
        if self.shared > SHARED_KIB * 1024:
            faults.append(f"{self.shared} bytes of shared memory; use fewer stages or smaller tiles")
        return faults


def ops() -> list[str]:
    """Return the names of the ops that have Triton kernels: the modules of kernels/gpu."""
    return sorted(module.name for module in pkgutil.iter_modules(gpu.__path__))


def shipped(op: str) -> Iterator[tuple[str, Figures]]:
    """Yield case and figures for every kernel of an op's own module in every configuration that ships."""
    module = importlib.import_module(f"{gpu.__name__}.{op}")
    for case in module.SHIPPED:
        with recording() as launches:
            module.sample(case, "meta")
        own = [launch for launch in launches if launch.kernel.fn.__module__ == module.__name__]
        yield from dict.fromkeys((case, compiled(launch)) for launch in own)


_done: dict[str, Figures] = {}


def compiled(launch: Launch) -> Figures:
    """Compile one launch, whose tensors may be on the meta device. Raises what Triton raises if it does not compile."""
    names = launch.kernel.arg_names
    given = dict(zip(names, launch.arguments)) | {k: v for k, v in launch.options.items() if k not in OPTIONS}
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(names):
        value = given[name]
        signature[name] = "constexpr" if launch.kernel.params[place].is_constexpr else _type(value)
        if signature[name] == "constexpr":
            constants[(place,)] = value
        elif isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    options = {name: launch.options[name] for name in OPTIONS}
    same = f"{launch.kernel.fn.__module__}.{launch.kernel.__name__} {signature} {constants} {attributes} {options}"
    if same not in _done:
        _done[same] = _figures(launch, signature, constants, attributes, options)
    return _done[same]


def _figures(launch: Launch, signature: Any, constants: Any, attributes: Any, options: dict[str, int]) -> Figures:
    source = ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=HOPPER, options=options)
    usage, code = _inspected(binary.asm["cubin"])
    return Figures(
        kernel=launch.kernel.__name__.removeprefix("_"),
        warps=options["num_warps"],
        stages=options["num_stages"],
        registers=int(_number(r"REG:(\d+)", usage)),
        stack=int(_number(r"STACK:(\d+)", usage)),
        shared=int(binary.metadata.shared),
        matrix=re.search(r"tt\.dot .*tensor<\w+x(bf16|f16|f8\w+)> \*", binary.asm["ttir"]) is not None,
        wgmma=len(re.findall(r"\b[HQ]GMMA\b", code)),
        mma=len(re.findall(r"\b[HQ]MMA\b", code)),
    )


def _type(value: Any) -> str:
    """Return Triton's type of an argument; None and 1 become constants, as when a launch compiles them."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    if value is None or (type(value) is int and value == 1):
        return "constexpr"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _inspected(cubin: bytes) -> tuple[str, str]:
    """Return the assembler's account of resources, and the machine code as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(  # type: ignore[return-value]  # of two
            subprocess.run([TOOLS / "cuobjdump", how, file.name], stdout=-1, stderr=-2, text=True, check=True).stdout
            for how in ("-res-usage", "-sass")
        )


def _number(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"cuobjdump printed no {pattern}: {text[:200]}"
    return match.group(1)
