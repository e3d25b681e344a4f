"""SwiGLU's kernels: values and gradients against float64, gates once, rows stored in FP8 with torch's bits."""

import pytest
import torch

from kernels import fp8_rows
from kernels.gpu import swiglu as fused
from kernels.swiglu import reference
from tests.triton.near import assert_near, draws, poison, weights_like

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
WIDTHS = [1, 40, 128, 1100]


def operands(M, F, dtype):
    return draws(1, M, 2 * F, dtype=dtype) * 2, draws(2, M, 1, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("F", WIDTHS)
def test_rows_with_gates_equal_float64_with_gradients(F, dtype, monkeypatch):
    rows, gate = operands(3, F, dtype)
    rows64, gate64 = (t.double().requires_grad_() for t in (rows, gate))
    y64 = reference(*rows64.chunk(2, -1), gate64)
    dy = weights_like(y64)
    y64.backward(dy)
    poison(monkeypatch)
    y, stored = fused.weighted(rows, gate)
    drows, dgate, again = fused.gradients(rows, gate, dy.to(dtype))
    assert stored is None
    assert torch.equal(again, y)
    assert {t.dtype for t in (y, drows, dgate)} == {dtype}
    expected = [y64.detach(), rows64.grad, gate64.grad[:, 0]]
    assert_near([y, drows, dgate], expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("F", WIDTHS)
def test_without_gates_it_equals_float64_with_gradients(F, dtype):
    g, u = (half.contiguous().view(1, 3, F).requires_grad_() for half in operands(3, F, dtype)[0].chunk(2, -1))
    g64, u64 = (t.detach().double().requires_grad_() for t in (g, u))
    results = []
    for op, a, b in ((fused.swiglu, g, u), (reference, g64, u64)):
        y = op(a, b)
        y.backward(weights_like(y))
        results.append([y.detach(), a.grad, b.grad])
    assert_near(*results, TOLERANCE[dtype])


@pytest.mark.parametrize("F", [128, 384, 1152])
def test_stored_rows_have_the_bits_of_a_pass_of_their_own(F, monkeypatch):
    rows, gate = operands(3, F, torch.bfloat16)
    plain, _ = fused.weighted(rows, gate)
    poison(monkeypatch)
    y, (codes, scales) = fused.weighted(rows, gate, store=True)
    expected_codes, expected_scales = fp8_rows.reference(rows)
    assert torch.equal(y, plain)
    assert torch.equal(codes.view(torch.uint8), expected_codes.view(torch.uint8))
    assert torch.equal(scales, expected_scales)


def test_rows_whose_blocks_cross_the_halves_are_not_stored():
    assert fused.weighted(*operands(2, 64, torch.bfloat16), store=True)[1] is None


def test_large_gates_saturate_without_nan():
    g = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    y = fused.swiglu(g, torch.ones(1, 3))
    y.sum().backward()
    assert y.tolist() == [[0.0, 200.0, 0.0]]
    assert g.grad.tolist() == [[0.0, 1.0, 0.5]]


def test_no_row_is_no_error():
    y, _ = fused.weighted(*operands(0, 40, torch.float32))
    assert y.shape == (0, 40)


def test_other_operands_are_refused_by_name():
    x = torch.ones(2, 3)
    assert "rows are float32 and float64, and must both be" in fused.refusal(x, x.double())
    assert "(3×2) are a view with strides (1, 3)" in fused.refusal(x.T, x.T)
    assert not fused.refusal(x, x)
