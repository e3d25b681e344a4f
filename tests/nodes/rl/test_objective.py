"""K2's objective against its closed form, and the rules around it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.rl.objective import advantages, informative, penalised, squared_objective, temperature_at


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), tau=st.floats(0.05, 5.0), n=st.integers(1, 4), k=st.integers(2, 6))
def test_gradient_is_the_closed_form(seed, tau, n, k):
    """d L / d log pi_i = -(2 tau / K) (r_i - mean r - tau ratio_i), averaged over prompts; ours is that over 2 tau."""
    g = torch.Generator().manual_seed(seed)
    rewards = torch.rand(n, k, generator=g, dtype=torch.float64)
    old = -3 * torch.rand(n, k, generator=g, dtype=torch.float64)
    new = (old + 0.3 * torch.randn(n, k, generator=g, dtype=torch.float64)).requires_grad_()
    a = advantages(rewards)
    once = torch.ones(n * k, dtype=torch.float64)
    loss = squared_objective(new.flatten(), old.flatten(), a.flatten(), once, tau, total=n * k)
    (gradient,) = torch.autograd.grad(loss, new)
    paper = -(2 * tau / (n * k)) * (a - tau * (new.detach() - old))
    torch.testing.assert_close(gradient, paper / (2 * tau), rtol=1e-12, atol=1e-14)


def test_loss_is_k2s_over_two_tau():
    new, old, a, tau = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0]), torch.tensor([0.5, -0.5]), 0.7
    by_hand = ((0.5 - 0.7 * 0.5) ** 2 + (-0.5 + 0.7 * 1.0) ** 2) / 2
    assert squared_objective(new, old, a, torch.ones(2), tau, total=2).item() == pytest.approx(by_hand / 1.4)


@given(st.lists(st.lists(st.sampled_from([-0.5, 0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_baseline_is_the_mean_and_equal_rewards_carry_nothing(rows):
    rewards = torch.tensor(rows)
    a = advantages(rewards)
    torch.testing.assert_close(a.sum(dim=1), torch.zeros(len(rows)), atol=1e-6, rtol=0)
    assert informative(rewards).tolist() == [len(set(row)) > 1 for row in rows]


def test_a_cut_off_response_pays_and_its_score_is_dropped():
    assert penalised([1.0, 1.0, 0.0, 0.0], [False, True, False, True], 0.25) == [1.0, -0.25, 0.0, -0.25]


def test_temperature_falls_linearly_and_one_iteration_stays_at_the_start():
    assert [temperature_at(i, 3, 1.2, 0.8) for i in range(3)] == pytest.approx([1.2, 1.0, 0.8])
    assert temperature_at(0, 1, 1.2, 0.8) == 1.2


def test_equal_draws_as_one_row_with_a_count_give_the_same_gradient():
    """Three draws of one response, with their own (even permuted) advantages, against one row of count three."""
    old, tau = torch.tensor([-1.0, -2.5]), 0.4
    new = torch.tensor([-1.2, -2.0], requires_grad=True)
    each = squared_objective(
        new[[0, 0, 0, 1]], old[[0, 0, 0, 1]], torch.tensor([0.7, -0.1, 0.3, -0.9]), torch.ones(4), tau, total=8
    )
    joined = squared_objective(new, old, torch.tensor([0.3, -0.9]), torch.tensor([3.0, 1.0]), tau, total=8)
    (a,), (b,) = torch.autograd.grad(each, new), torch.autograd.grad(joined, new)
    torch.testing.assert_close(a, b)
