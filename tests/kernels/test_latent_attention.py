"""MLA's fused attention: values, maxima and gradients are those of the specification at any length and block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import latent_attention
from kernels.latent_attention import BLOCK, reference


def draws(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def operands(B, T, H=2, N=6, d=4, V=5, dtype=torch.float64, batched=False):
    angles = draws(4, B, T, d // 2) if batched else draws(4, T, d // 2)
    leaves = [
        draws(1, B, T, H, N + d, dtype=dtype),
        draws(2, B, T, H, N + V, dtype=dtype),
        draws(3, B, T, d, dtype=dtype),
    ]
    return [leaf.requires_grad_() for leaf in leaves], torch.polar(torch.ones_like(angles), angles)


def results(op, leaves, turn):
    for leaf in leaves:
        leaf.grad = None
    y, largest = op(*leaves, turn, 0.37)
    (y * draws(5, *y.shape, dtype=y.dtype)).sum().backward()
    return [y.detach(), largest, *(leaf.grad for leaf in leaves)]


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 2 * BLOCK + 3), st.booleans())
def test_it_equals_the_reference_with_gradients(length, batched):
    leaves, turn = operands(2, length, batched=batched)
    for expected, got in zip(
        results(reference, leaves, turn), results(latent_attention.latent_attention, leaves, turn)
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cached", [1, 3 * BLOCK * (BLOCK + 9), 10**9])
def test_lots_of_heads_change_nothing(cached, monkeypatch):
    leaves, turn = operands(3, BLOCK + 9)
    expected = results(reference, leaves, turn)
    monkeypatch.setattr(latent_attention, "CACHED", cached)
    for one, got in zip(expected, results(latent_attention.latent_attention, leaves, turn)):
        torch.testing.assert_close(got, one, rtol=1e-11, atol=1e-11)


def test_heads_of_odd_width_are_turned_too():
    leaves, turn = operands(2, 9, N=5)
    for expected, got in zip(
        results(reference, leaves, turn), results(latent_attention.latent_attention, leaves, turn)
    ):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_weights_that_are_not_kept_are_formed_again_to_the_same_bits(monkeypatch):
    leaves, turn = operands(2, BLOCK + 5, dtype=torch.float32)
    kept = results(latent_attention.latent_attention, leaves, turn)
    monkeypatch.setattr(latent_attention, "KEEP", 0)
    for expected, got in zip(kept, results(latent_attention.latent_attention, leaves, turn)):
        assert torch.equal(got, expected)


def kept(monkeypatch, limit):
    """Attention weights that a forward leaves for its backward when `limit` may be kept."""
    monkeypatch.setattr(latent_attention, "KEEP", limit)
    leaves, turn = operands(2, 2 * BLOCK + 5)
    y, _ = latent_attention.latent_attention(*leaves, turn, 0.37)
    return sum(tensor.numel() for tensor in y.grad_fn.saved_tensors[5:])


def test_what_is_kept_is_counted_without_the_masked_half(monkeypatch):
    held = kept(monkeypatch, 10**9)
    assert held < 0.8 * 2 * 2 * (2 * BLOCK + 5) ** 2
    assert kept(monkeypatch, held) == held
    assert kept(monkeypatch, held - 1) == 0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_masked_pair_that_is_no_number_touches_no_earlier_query(bad):
    leaves, turn = operands(1, BLOCK, dtype=torch.float32)
    with torch.no_grad():
        leaves[0][..., 0], leaves[1][0, 40, :, 0] = 1.0, bad
        y, _ = latent_attention.latent_attention(*leaves, turn, 0.37)
        expected, _ = reference(*leaves, turn, 0.37)
    torch.testing.assert_close(y[:, :40], expected[:, :40], rtol=1e-5, atol=1e-5)
    assert y[:, :40].isfinite().all()


def test_gradients_equal_finite_differences():
    leaves, turn = operands(1, 5)
    assert torch.autograd.gradcheck(lambda *a: latent_attention.latent_attention(*a, turn, 0.37)[0], leaves, atol=1e-6)


def test_bf16_operands_give_products_of_their_own_values():
    leaves, turn = operands(2, 40, dtype=torch.bfloat16)
    y, largest = latent_attention.latent_attention(*leaves, turn, 0.37)
    expected, exact = reference(*(leaf.detach().double() for leaf in leaves), turn, 0.37)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(largest.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_reaches_the_maximum(bad):
    leaves, turn = operands(1, BLOCK + 2, dtype=torch.float32)
    with torch.no_grad():
        leaves[0][0, BLOCK + 1, 1, 0] = bad
        _, largest = latent_attention.latent_attention(*leaves, turn, 0.37)
    assert largest[0].isfinite()
    assert not largest[1].isfinite()


def test_no_maximum_is_formed_where_none_is_requested():
    leaves, turn = operands(1, 7)
    y, largest = latent_attention.latent_attention(*leaves, turn, 0.37, maximum=False)
    assert largest is None
    torch.testing.assert_close(y, reference(*leaves, turn, 0.37)[0])


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 2 * BLOCK + 3), st.integers(0, 99))
def test_padding_queries_leave_the_maximum_out_and_all_else_alone(length, seed):
    leaves, turn = operands(2, length)
    valid_BT = draws(seed, 2, length) > 0
    with torch.no_grad():
        leaves[0][~valid_BT] *= 1e3
    seen = results(lambda *a: latent_attention.latent_attention(*a, valid_BT=valid_BT), leaves, turn)
    whole = results(latent_attention.latent_attention, leaves, turn)
    exact = reference(*leaves, turn, 0.37, valid_BT=valid_BT)[1]
    torch.testing.assert_close(seen[1], exact, rtol=1e-11, atol=1e-11)
    assert all(torch.equal(a, b) for a, b in zip(seen[:1] + seen[2:], whole[:1] + whole[2:]))


def test_a_valid_query_is_held_to_every_key_even_a_padding_one():
    leaves, turn = operands(1, BLOCK + 9, dtype=torch.float32)
    with torch.no_grad():
        leaves[1][0, 3, 1, 0] = 1e4  # a key that no valid query precedes
        last = torch.arange(BLOCK + 9)[None] == BLOCK + 8
        _, largest = latent_attention.latent_attention(*leaves, turn, 0.37, valid_BT=last)
        _, exact = reference(*leaves, turn, 0.37, valid_BT=last)
    torch.testing.assert_close(largest, exact)
    assert largest[1].abs() > 100
