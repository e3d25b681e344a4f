"""bf16 on a processor that multiplies none: the same values as products of the operands' own, rounded once."""

import pytest
import torch

from kernels import precision
from kernels.linear import linear
from kernels.precision import product_type, wide


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["multiplies bf16", "emulates bf16"])
def native(request, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_multiplies_bf16", lambda: request.param)
    return request.param


def test_fp32_takes_the_place_of_emulated_bf16_and_of_nothing_else(native):
    assert product_type(torch.bfloat16, "cpu") == (torch.bfloat16 if native else torch.float32)
    assert product_type(torch.bfloat16, "cuda") == torch.bfloat16
    assert product_type(torch.float64, "cpu") == torch.float64
    assert wide(torch.float64) == torch.float64
    assert wide(torch.bfloat16) == torch.float32


def test_a_bf16_product_is_that_of_its_values_rounded_to_bf16(native):
    x, weight = draws(1, 5, 40).bfloat16(), draws(2, 7, 40).bfloat16()
    y = linear(x, weight)
    assert y.dtype == torch.bfloat16
    exact = x.double() @ weight.double().T
    assert ((y.double() - exact).abs() <= exact.abs() / 128 + 1e-2).all()


def test_autocast_rounds_the_operands_and_hands_fp32_gradients_back(native):
    x, weight = draws(1, 5, 40).requires_grad_(), draws(2, 7, 40).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear(x, weight)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, x.detach().sum(0).expand(7, -1), rtol=2e-2, atol=6e-2)
