"""Autocast narrows no product that a kernel forms in fp32, and no backward differs under it from one outside."""

import pytest
import torch

from kernels import experts, latent_attention, max_logit, rms_norm
from tests.kernels.test_latent_attention import operands


def draws(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mixed():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("keep", [2**25, 0], ids=["kept", "formed again"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_gives_the_same_bits_inside_and_outside(monkeypatch, dtype, keep):
    monkeypatch.setattr(latent_attention, "KEEP", keep)
    leaves, turn = operands(2, latent_attention.BLOCK + 9, N=16, d=8, V=12, dtype=dtype)
    dy = draws(5, *leaves[0].shape[:-1], 12, dtype=dtype)
    results = []
    for forward, backward in ((False, False), (True, False), (True, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward):
            y, largest = latent_attention.latent_attention(*leaves, turn, 0.37)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward):
            results.append([y, largest, *torch.autograd.grad(y, leaves, dy)])
    for got in results[1:]:
        for expected, value in zip(results[0], got, strict=True):
            assert torch.equal(value, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_maximum_is_exact_inside(dtype):
    q, k = draws(1, 2, 3, 200, 48, dtype=dtype), draws(2, 2, 3, 200, 48, dtype=dtype)
    with mixed():
        got = max_logit.max_logit(q, k, 0.3)
    expected = max_logit.reference(q.double(), k.double(), 0.3)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(got.double(), expected, rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=0)


def test_backwards_by_hand_are_the_same_inside():
    x, gain = draws(1, 30, 16).requires_grad_(), draws(2, 16).requires_grad_()
    gate_up, down = draws(3, 4, 16, 16).requires_grad_(), draws(4, 4, 16, 8).requires_grad_()
    chosen, gates = draws(5, 30, 4).topk(2, dim=-1).indices, draws(6, 30, 2).requires_grad_()
    for y, leaves in (
        (rms_norm.rms_norm(x, gain, 1e-6), (x, gain)),
        (experts.experts(x, chosen, gates, gate_up, down), (x, gates, gate_up, down)),
    ):
        dy = draws(7, *y.shape)
        expected = torch.autograd.grad(y, leaves, dy, retain_graph=True)
        with mixed():
            got = torch.autograd.grad(y, leaves, dy)
        for one, other in zip(expected, got, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("grad", [True, False])
def test_experts_form_products_in_the_type_of_x_inside(grad):
    given = (
        draws(1, 9, 16),
        draws(2, 9, 4).topk(2, dim=-1).indices,
        draws(3, 9, 2),
        draws(4, 4, 16, 16),
        draws(5, 4, 16, 8),
    )
    with torch.set_grad_enabled(grad):
        expected = experts.experts(*given)
        with mixed():
            assert torch.equal(experts.experts(*given), expected)
