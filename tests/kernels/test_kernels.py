"""Every fast op against its readable reference, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cross_entropy, experts, latent_attention, max_logit, rms_norm
from tests.kernels.test_latent_attention import operands


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.data())
def test_experts_equal_the_reference_with_gradients(tokens, n_experts, data):
    k = data.draw(st.integers(1, n_experts))
    x, gate_up, down = draws(1, tokens, 16), draws(2, n_experts, 16, 16), draws(3, n_experts, 16, 8)
    chosen = draws(4, tokens, n_experts).topk(k, dim=-1).indices
    gates = draws(5, tokens, k).sigmoid()
    results = []
    for op in (experts.reference, experts.experts):
        leaves = [t.clone().requires_grad_() for t in (x, gates, gate_up, down)]
        y = op(leaves[0], chosen, *leaves[1:])
        (y * draws(6, *y.shape)).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, experts.FEW + 5), st.integers(1, 7), st.data())
@torch.no_grad()
def test_decoding_through_every_expert_equals_the_reference(tokens, n_experts, data):
    k = data.draw(st.integers(1, n_experts))
    chosen = draws(4, tokens, n_experts).topk(k, dim=-1).indices
    given = (draws(1, tokens, 16), chosen, draws(5, tokens, k).sigmoid(), draws(2, n_experts, 16, 16))
    down = draws(3, n_experts, 16, 8)
    torch.testing.assert_close(experts.experts(*given, down), experts.reference(*given, down), rtol=1e-4, atol=1e-4)


def test_experts_in_fp64_equal_the_reference_closely():
    chosen = draws(4, 30, 5).topk(2, dim=-1).indices
    given = [t.double() for t in (draws(1, 30, 16), draws(5, 30, 2).sigmoid(), draws(2, 5, 16, 16), draws(3, 5, 16, 8))]
    results = []
    for op in (experts.reference, experts.experts):
        leaves = [t.clone().requires_grad_() for t in given]
        (op(leaves[0], chosen, *leaves[1:]) * draws(6, 30, 16)).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("D", "F"), [(6, 3), (5, 1), (16, 6), (7, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_that_are_no_multiple_of_16_bytes(D, F, dtype, monkeypatch):
    """`F.grouped_mm` refuses such rows; also where bf16 goes to it as it is."""
    monkeypatch.setattr(experts, "product_type", lambda own, _: own)
    chosen = draws(4, 30, 5).topk(2, dim=-1).indices
    given = (draws(1, 30, D), draws(5, 30, 2).sigmoid(), draws(2, 5, 2 * F, D), draws(3, 5, D, F))
    results = []
    for op, own in ((experts.reference, torch.float32), (experts.experts, dtype)):
        leaves = [t.to(dtype).to(own).requires_grad_() for t in given]
        y = op(leaves[0], chosen, *leaves[1:])
        (y * draws(6, 30, D).to(dtype)).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 0.3}
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected.to(dtype), **close)


def twice_differentiated():
    x, weight = draws(1, 9, 8).requires_grad_(), draws(2, 11, 8)
    chosen, gates = draws(4, 9, 3).topk(2, dim=-1).indices, draws(5, 9, 2)
    yield x, cross_entropy.linear_cross_entropy(x, weight, chosen[:, 0]).square()
    yield x, rms_norm.rms_norm(x, draws(3, 8), 1e-6).square().sum()
    yield x, experts.experts(x, chosen, gates, draws(6, 3, 16, 8), draws(7, 3, 8, 8)).square().sum()
    leaves, turn = operands(1, 7)
    yield leaves[0], latent_attention.latent_attention(*leaves, turn, 0.37)[0].square().sum()


def test_a_gradient_by_hand_is_not_differentiated_again_in_silence():
    for x, loss in twice_differentiated():
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(2, 3))
def test_max_logit_is_exact_at_any_length(length, heads):
    q, k = draws(1, 2, heads, length, 8), draws(2, 2, heads, length, 8)
    got, expected = max_logit.max_logit(q, k, 0.3), max_logit.reference(q, k, 0.3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_max_logit_keeps_its_sign_and_leaves_masked_pairs_out():
    q = torch.ones(1, 1, 2, 1)
    k = torch.tensor([-3.0, 5.0]).view(1, 1, 2, 1)
    assert max_logit.max_logit(q[:, :, :1], k[:, :, :1], 1.0).item() == -3.0
    q[0, 0, 1] = -1.0  # the pair (query 0, key 1) would give 5 but is masked; -1·-3 is the largest seen
    assert max_logit.max_logit(q, k, 1.0).item() == 3.0
    only_first = torch.tensor([[True, False]])
    assert max_logit.max_logit(q, k, 1.0, only_first).item() == -3.0, "a padding query is left out"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "vocabulary"), [(5, 11), (700, 33)])
def test_linear_cross_entropy_equals_the_reference_with_gradients(rows, vocabulary, dtype):
    x, weight = draws(1, rows, 8).to(dtype), draws(2, vocabulary, 8).to(dtype)
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    targets = draws(3, rows, vocabulary).argmax(-1)
    results = []
    for op in (cross_entropy.reference, cross_entropy.linear_cross_entropy):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = op(a, b, targets)
        (3 * loss).backward()
        results.append((loss.detach(), a.grad, b.grad))
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, **close)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy.linear_cross_entropy(x, weight, targets), results[0][0])
