"""Cross-entropy's kernel: losses and gradients against float64, ignored targets, z-loss, and the op around it."""

import pytest
import torch

from kernels import choice
from kernels import cross_entropy as op
from kernels.cross_entropy import Terms, linear_cross_entropy, reference
from kernels.gpu import cross_entropy as fused
from tests.triton.near import assert_near, draws

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
TERMS = [Terms(), Terms(-100), Terms(z=0.01), Terms(3, 0.01)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Rows in several blocks, the last not full."""
    monkeypatch.setattr(fused, "WIDEST", 64)


def targets_of(V, n=5):
    targets = torch.arange(n) * 37 % V
    targets[2] = -100
    return targets


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("terms", TERMS[1:], ids=str)
@pytest.mark.parametrize("V", [4, 64, 150])
def test_losses_and_gradients_equal_float64(V, terms, dtype):
    logits, targets = draws(1, 5, V, dtype=dtype) * 3, targets_of(V)
    targets[2] = 0 if terms.ignored is None else terms.ignored
    exact = logits.double().requires_grad_()
    counts = targets != (terms.ignored if terms.ignored is not None else -1)
    log_sum = exact.logsumexp(-1)
    expected = log_sum - exact.gather(-1, targets.clamp_min(0)[:, None])[:, 0] + terms.z * log_sum**2
    expected = torch.where(counts, expected, 0.0)
    expected.sum().backward()
    losses = fused.losses(logits, targets, terms.ignored, terms.z, gradient=True)
    assert losses.dtype == torch.float32
    assert_near([losses, logits], [expected.detach(), exact.grad], TOLERANCE[dtype])
    assert not losses[~counts].any()
    assert not logits[~counts].any()


def test_without_gradient_the_logits_stay():
    logits = draws(1, 5, 150, dtype=torch.float32)
    before, targets = logits.clone(), torch.arange(5)
    losses = fused.losses(logits, targets, None, 0.0, gradient=False)
    assert torch.equal(logits, before)
    assert torch.equal(losses, fused.losses(before, targets, None, 0.0, gradient=True))


def test_logits_of_minus_infinity_have_no_share():
    logits = draws(1, 2, 150, dtype=torch.float32)
    logits[:, :100] = float("-inf")  # the first block is nothing else
    expected = torch.nn.functional.cross_entropy(logits.double(), torch.tensor([120, 149]), reduction="none")
    losses = fused.losses(logits, torch.tensor([120, 149]), None, 0.0, gradient=True)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    assert not logits[:, :100].any()


@pytest.mark.parametrize("target", [-1, 150, 2**40])
def test_a_target_outside_of_the_vocabulary_is_nan_and_reads_nothing(target):
    losses = fused.losses(draws(1, 2, 150, dtype=torch.float32), torch.tensor([3, target]), None, 0.0, gradient=True)
    assert losses.isnan().tolist() == [False, True]


def test_a_nan_stays_in_its_row():
    logits = draws(1, 2, 150, dtype=torch.float32)
    logits[1, 77] = float("nan")
    losses = fused.losses(logits, torch.tensor([3, 4]), None, 0.0, gradient=True)
    assert losses.isnan().tolist() == [False, True]
    assert logits[0].isfinite().all()


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_op_in_chunks_equals_float64_with_gradients(dtype, terms, monkeypatch):
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    monkeypatch.setattr(op, "CHUNK_OF_TRITON", 4)
    x, weight = (draws(seed, *shape, dtype=dtype).requires_grad_() for seed, shape in ((1, (10, 16)), (2, (150, 16))))
    targets = torch.arange(10) * 37 % 150
    if terms.ignored is not None:
        targets[3], targets[9] = terms.ignored, terms.ignored
    results = []
    for form, a, b in (
        (linear_cross_entropy, x, weight),
        (reference, *(t.detach().double().requires_grad_() for t in (x, weight))),
    ):
        loss = form(a, b, targets, terms)
        loss.backward()
        results.append([loss.detach(), a.grad, b.grad])
    assert_near(*results, {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype])  # logits are rounded to bf16
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, weight, targets, terms), results[0][0])


def test_other_types_are_refused_by_name():
    assert "logits are float64, and must be" in fused.refusal(torch.ones(2, 3), torch.float64)
    assert not fused.refusal(torch.ones(2, 3), torch.bfloat16)
