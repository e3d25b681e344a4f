"""The head's loss with rows that do not count and with the z term, on a CPU."""

import pytest
import torch

from kernels.cross_entropy import CHUNK, Terms, linear_cross_entropy, reference


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("terms", [Terms(-100), Terms(z=0.1), Terms(3, 0.1)], ids=str)
def test_terms_equal_the_reference_with_gradients(terms):
    rows = CHUNK + 7
    targets = torch.arange(rows) * 5 % 19
    if terms.ignored is not None:
        targets[::4] = terms.ignored
    results = []
    for op in (reference, linear_cross_entropy):
        x, weight = draws(1, rows, 6).requires_grad_(), draws(2, 19, 6).requires_grad_()
        loss = op(x, weight, targets, terms)
        loss.backward()
        with torch.no_grad():
            results.append([loss.detach(), op(x, weight, targets, terms), x.grad, weight.grad])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_an_ignored_row_has_no_gradient_and_does_not_count_in_the_mean():
    x, weight, targets = draws(1, 4, 6).requires_grad_(), draws(2, 19, 6), torch.tensor([1, -100, 2, -100])
    loss = linear_cross_entropy(x, weight, targets, Terms(-100))
    loss.backward()
    torch.testing.assert_close(loss, reference(x[::2], weight, targets[::2]), rtol=1e-11, atol=1e-11)
    assert not x.grad[1::2].any()
