"""Every kernel that ships compiles for sm_90a without a spill, a fall-back from wgmma or too much shared memory."""

import json
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.sm90 import rows_of
from kernels import hopper
from kernels.launching import Launch, launch, recording

TABLE = Path("benchmarks/results/kernels-sm90.json")
UPDATE = f"python -m benchmarks sm90 --json {TABLE}"


@pytest.mark.parametrize("op", hopper.ops())
def test_every_configuration_fits_hopper(op):
    faults = {f"{case}, {figures.kernel}": figures.faults() for case, figures in hopper.shipped(op)}
    assert faults
    assert not {name: found for name, found in faults.items() if found}


@pytest.mark.parametrize("op", hopper.ops())
def test_the_table_holds_what_is_compiled(op):
    table = json.loads(TABLE.read_text())
    assert table["settings"]["triton"] == triton.__version__, f"run {UPDATE}"
    kept = [row for row in table["rows"] if row["op"] == op]
    assert kept == rows_of(op), f"the figures changed: run {UPDATE} and review the difference"


def test_the_table_has_no_other_ops():
    rows = json.loads(TABLE.read_text())["rows"]
    assert {row["op"] for row in rows} == set(hopper.ops())


@triton.jit
def _product(A, B, OUT, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    m, k, n = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a = tl.load(A + m[:, None] * K + k[None, :])
    b = tl.load(B + k[:, None] * N + n[None, :])
    tl.store(OUT + m[:, None] * N + n[None, :], tl.dot(a, b))


def faults(M, K, N, warps=4):
    a, b, out = (
        torch.empty(16, dtype=dtype, device="meta") for dtype in (torch.bfloat16, torch.bfloat16, torch.float32)
    )
    with recording() as launches:
        launch(_product, (1,), a, b, out, M=M, K=K, N=N, num_warps=warps, num_stages=1)
    return hopper.compiled(launches[0]).faults()


def test_a_fit_kernel_has_no_fault():
    assert faults(64, 64, 64) == []


def test_a_product_that_leaves_wgmma_is_a_fault():
    assert any("wgmma" in fault for fault in faults(32, 64, 64))


def test_a_spill_is_a_fault():
    assert any("bytes of stack" in fault for fault in faults(256, 64, 256))


def test_too_much_shared_memory_is_a_fault():
    assert any("shared memory" in fault for fault in faults(256, 512, 256, warps=8))


def test_arguments_are_typed_as_a_launch_types_them():
    assert isinstance(Launch(_product, (), {}), Launch)
    assert [hopper._type(value) for value in (None, 1, 2, 2**31, True, 0.5, torch.empty(1, dtype=torch.bfloat16))] == [
        "constexpr", "constexpr", "i32", "i64", "u1", "fp32", "*bf16",
    ]  # fmt: skip
