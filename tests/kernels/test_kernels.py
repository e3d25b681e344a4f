"""Every fast op against its readable reference, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cross_entropy, experts, max_logit


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


@pytest.mark.parametrize(("rows", "vocabulary"), [(5, 11), (700, 33)])
def test_linear_cross_entropy_equals_the_reference_with_gradients(rows, vocabulary):
    x, weight = draws(1, rows, 8), draws(2, vocabulary, 8)
    targets = draws(3, rows, vocabulary).argmax(-1)
    results = []
    for op in (cross_entropy.reference, cross_entropy.linear_cross_entropy):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = op(a, b, targets)
        (3 * loss).backward()
        results.append((loss.detach(), a.grad, b.grad))
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy.linear_cross_entropy(x, weight, targets), results[0][0])
