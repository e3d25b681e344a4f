"""The public ops on a real GPU: against float64 and torch's own attention, with the same bits every time.

The CPU's reference gets the operands as the GPU has them, in bf16, and computes in float64.
"""

import pytest
import torch
from torch import Tensor

from kernels import choice, fp8_rows
from kernels.cross_entropy import Terms, linear_cross_entropy
from kernels.cross_entropy import reference as cross_entropy
from kernels.latent_attention import _fused, latent_attention
from kernels.latent_attention import reference as attention
from kernels.rms_norm import reference as rms_norm_reference
from kernels.rms_norm import rms_norm
from kernels.swiglu import reference as swiglu_reference
from kernels.swiglu import swiglu
from tests.triton.near import assert_near, draws, weights_like

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
BF16 = torch.bfloat16
T = 300
"""Positions: three tiles of queries, the last not full."""


@pytest.fixture(autouse=True)
def strict():
    with choice.strict():
        yield


def turn_of(d):
    angles = draws(4, T, d // 2)
    return torch.polar(torch.ones_like(angles), angles)


def ops():
    """Each op with its reference, of operands of these shapes."""
    heads = [(2, T, 4, 192), (2, T, 4, 256), (2, T, 64)]
    small = [(2, T, 4, 96), (2, T, 4, 128), (2, T, 32)]
    targets = torch.arange(T) * 7919 % 32000
    targets[::5] = -100

    def loss(op):
        return lambda x, weight: op(x, weight, targets.to(x.device), Terms(-100, 1e-4))

    def attends(op):
        return lambda *leaves: op(*leaves, turn_of(leaves[2].shape[-1]).to(leaves[0].device), 0.1)[0]

    return {
        "attention of K2's heads": (attends(latent_attention), attends(attention), heads),
        "attention of h200's heads": (attends(latent_attention), attends(attention), small),
        "rms_norm": (
            lambda x, gain: rms_norm(x, gain, 1e-6), lambda x, gain: rms_norm_reference(x, gain, 1e-6),
            [(T, 7168), (7168,)],
        ),
        "swiglu": (swiglu, swiglu_reference, [(T, 2048), (T, 2048)]),
        "cross_entropy": (loss(linear_cross_entropy), loss(cross_entropy), [(T, 64), (32000, 64)]),
    }  # fmt: skip


def results(op, leaves: list[Tensor]) -> list[Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = op(*leaves)
    y.backward(weights_like(y.cpu()).to(y.device))
    return [part.detach().cpu() for part in (y, *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("name", ops())
def test_an_op_equals_float64_with_gradients_and_has_the_same_bits_again(name):
    op, reference, shapes = ops()[name]
    leaves = [draws(seed, *shape, dtype=BF16) for seed, shape in enumerate(shapes)]
    on_device = [leaf.to(DEVICE) for leaf in leaves]
    got = results(op, on_device)
    assert_near(got, results(reference, [leaf.double() for leaf in leaves]), 2e-2)
    for one, other in zip(got, results(op, on_device), strict=True):
        assert torch.equal(one, other)


def heads_on_device() -> list[Tensor]:
    shapes = (2, T, 4, 192), (2, T, 4, 256), (2, T, 64)
    return [draws(seed, *shape, dtype=BF16).to(DEVICE) for seed, shape in enumerate(shapes)]


def test_the_maxima_are_those_of_a_second_pass_over_the_same_heads():
    leaves, turn = heads_on_device(), turn_of(64).to(DEVICE, torch.complex64)
    y, largest = latent_attention(*leaves, turn, 0.1)
    expected_y, expected = _fused(*leaves, turn, 0.1, True, None)
    assert_near([y.cpu()], [expected_y.cpu().double()], 2e-2)
    torch.testing.assert_close(largest, expected, rtol=1e-5, atol=1e-5)


def test_a_nan_survives_the_maximum():
    leaves = heads_on_device()
    leaves[0][1, 250, 2, 3] = float("nan")
    _, largest = latent_attention(*leaves, turn_of(64).to(DEVICE, torch.complex64), 0.1)
    assert largest.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("power_of_two", [False, True])
def test_fp8_rows_have_the_cpus_bits(power_of_two):
    x = draws(1, 64, 7168 - 60, dtype=BF16) * torch.logspace(-8, 8, 64)[:, None].to(BF16)
    codes, scales = fp8_rows.reference(x, power_of_two)
    got_codes, got_scales = fp8_rows.compress(x.to(DEVICE), power_of_two)
    assert torch.equal(got_codes.cpu().view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(got_scales.cpu(), scales)
    assert torch.equal(fp8_rows.expand(got_codes, got_scales, BF16).cpu(), fp8_rows.expand(codes, scales, BF16))
