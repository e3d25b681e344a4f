"""RMSNorm: values and gradients of the specification; low precision is normalised in fp32."""

import pytest
import torch

from kernels.rms_norm import add_rms_norm, reference, rms_norm


def draws(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 5), (1, 1)])
def test_it_equals_the_reference_with_gradients(shape):
    results = []
    for op in (reference, rms_norm):
        x, gain = draws(1, *shape).requires_grad_(), draws(2, shape[-1]).requires_grad_()
        y = op(x, gain, 1e-6)
        (y * draws(3, *shape)).sum().backward()
        results.append((y.detach(), x.grad, gain.grad))
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_gradients_equal_finite_differences():
    x, gain = draws(1, 4, 6).requires_grad_(), draws(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: rms_norm(*a, 1e-6), (x, gain))


def test_bf16_is_normalised_in_fp32_and_rounded_once():
    x, gain = (draws(1, 3, 64) * 300).bfloat16().requires_grad_(), draws(2, 64, dtype=torch.float32)
    y = rms_norm(x, gain, 1e-6)
    assert torch.equal(y, reference(x.double(), gain.double(), 1e-6).bfloat16())


def test_a_row_of_zeros_stays_zero_and_has_a_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-6).sum().backward()
    assert x.grad.isfinite().all()


def test_a_residual_is_added_first():
    x, residual, gain = draws(1, 3, 8), draws(2, 3, 8), draws(3, 8)
    total, y = add_rms_norm(x, residual, gain, 1e-6)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, rms_norm(total, gain, 1e-6))
