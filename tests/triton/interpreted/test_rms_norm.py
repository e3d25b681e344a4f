"""RMSNorm's kernels: values and gradients against float64, at odd widths, with a residual, of views."""

import re

import pytest
import torch

from kernels.gpu import rms_norm as fused
from kernels.rms_norm import reference
from tests.triton.near import assert_near, draws, poison, weights_like

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def results(op, *leaves):
    y = op(*leaves, 1e-6)
    y.backward(weights_like(y))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def leaves(*shape, dtype, gain=torch.float32):
    return (draws(1, *shape, dtype=dtype) * 3).requires_grad_(), draws(2, shape[-1], dtype=gain).requires_grad_()


def doubled(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 200), (1, 1)])
def test_it_equals_float64_with_gradients(shape, dtype):
    operands = leaves(*shape, dtype=dtype)
    got = results(fused.rms_norm, *operands)
    assert [t.dtype for t in got] == [dtype, dtype, torch.float32]
    assert_near(got, results(reference, *doubled(*operands)), TOLERANCE[dtype])


def test_a_program_sums_the_gain_over_several_rows(monkeypatch):
    monkeypatch.setattr(fused, "PROGRAMS", 4)
    operands = leaves(11, 6, dtype=torch.float32)
    assert_near(results(fused.rms_norm, *operands), results(reference, *doubled(*operands)), 1e-6)


def test_the_gain_keeps_its_type():
    operands = leaves(4, 8, dtype=torch.bfloat16, gain=torch.bfloat16)
    got = results(fused.rms_norm, *operands)
    assert got[2].dtype == torch.bfloat16
    assert_near(got, results(reference, *doubled(*operands)), 4e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_residual_is_added_before_and_has_the_same_gradient(dtype):
    x, gain = leaves(5, 40, dtype=dtype)
    residual = draws(4, 5, 40, dtype=dtype).requires_grad_()
    weights = draws(5, 5, 40, dtype=dtype), draws(6, 5, 40, dtype=dtype)
    total, y = fused.add_rms_norm(x, residual, gain, 1e-6)
    torch.autograd.backward([total, y], weights)
    x64, residual64, gain64 = doubled(x, residual, gain)
    total64 = x64 + residual64
    assert torch.equal(total.detach(), (x.detach() + residual.detach()))
    y64 = reference(total.detach().double() + (total64 - total64.detach()), gain64, 1e-6)
    torch.autograd.backward([total64, y64], [weight.double() for weight in weights])
    expected = [total64.detach(), y64.detach(), x64.grad, residual64.grad, gain64.grad]
    assert_near([total.detach(), y.detach(), x.grad, residual.grad, gain.grad], expected, TOLERANCE[dtype])


def test_a_residual_of_another_type_is_added_in_the_wider_one():
    x, gain = leaves(3, 8, dtype=torch.float32)
    residual = draws(4, 3, 8, dtype=torch.bfloat16).requires_grad_()
    total, y = fused.add_rms_norm(x, residual, gain, 1e-6)
    (total.sum() + y.sum()).backward()
    assert torch.equal(total, x + residual)
    assert (y.dtype, x.grad.dtype, residual.grad.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    assert torch.equal(residual.grad, x.grad.bfloat16())


def test_rows_of_a_wider_matrix_are_read_in_place():
    wide = draws(1, 2, 3, 20, dtype=torch.float32)
    gain = torch.ones(12)
    assert torch.equal(fused.rms_norm(wide[..., :12], gain, 1e-6), fused.rms_norm(wide[..., :12].clone(), gain, 1e-6))


def test_zeros_and_nan_stay_in_their_rows():
    x = torch.ones(3, 8)
    x[0], x[2, 5] = 0.0, float("nan")
    y = fused.rms_norm(x, torch.ones(8), 1e-6)
    assert torch.equal(y[0], torch.zeros(8))
    assert y[1].isfinite().all()
    assert y[2].isnan().all()


def test_no_row_is_no_error():
    x, gain = leaves(0, 8, dtype=torch.float32)
    assert [tuple(t.shape) for t in results(fused.rms_norm, x, gain)] == [(0, 8), (0, 8), (8,)]
    assert gain.grad.tolist() == [0.0] * 8


def test_every_output_is_written(monkeypatch):
    poison(monkeypatch)
    for result in results(fused.rms_norm, *leaves(5, 12, dtype=torch.float32)):
        assert result.isfinite().all()


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.ones(2, 8).double(), "rows and gain are float64 and float32"),
        (torch.ones(8, 2).T, r"the rows \(2×8\) are a view with strides \(1, 2\); call .contiguous"),
        (torch.ones(1, 20000), "rows of 20000 channels do not fit a program; at most 16384 do"),
    ],
)
def test_other_operands_are_refused_by_name(x, sentence):
    assert re.search(sentence, fused.refusal(x, torch.ones(x.shape[-1])))
    assert not fused.refusal(torch.ones(2, 8), torch.ones(8))
