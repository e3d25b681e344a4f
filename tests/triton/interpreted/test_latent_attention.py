"""MLA's flash kernels: values, maxima and gradients against float64, at odd lengths, with documents and padding."""

import re

import pytest
import torch

from kernels.gpu import latent_attention as fused
from kernels.latent_attention import heads, reference
from tests.triton.near import assert_near, draws, poison, weights_like

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
SCALE = 0.11
WIDTHS = [(128, 64, 128), (32, 16, 32), (16, 16, 64)]


def operands(T, widths, dtype, B=1, H=2, batched=False):
    N, d, V = widths
    angles = draws(4, *((B, T) if batched else (T,)), d // 2)
    leaves = draws(1, B, T, H, N + d), draws(2, B, T, H, N + V), draws(3, B, T, d)
    return [leaf.to(dtype).requires_grad_() for leaf in leaves], torch.polar(torch.ones_like(angles), angles)


def results(op, leaves, turn, *more):
    y, largest = op(*leaves, turn, SCALE, *more)
    y.backward(weights_like(y))
    return [y.detach(), largest, *(leaf.grad for leaf in leaves)]


def check(T, widths, dtype, valid=None, start=None, **how):
    leaves, turn = operands(T, widths, dtype, **how)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = results(fused.latent_attention, leaves, turn, valid, start)
    expected = results(reference, exact, turn, valid, start)
    assert [t.dtype for t in got] == [dtype, torch.float32, *[dtype] * 3]
    assert_near(got, expected, TOLERANCE[dtype])
    torch.testing.assert_close(got[1].double(), maxima(leaves, turn, valid, start), rtol=1e-6, atol=1e-6)
    return got


def maxima(leaves, turn, valid, start):
    """Largest logits of the heads as rotated and rounded to their type, which is what the softmax gets."""
    with torch.no_grad():
        q, k, _ = (part.double() for part in heads(*leaves, turn))
        logits = q @ k.mT * SCALE
        T = turn.shape[-2]
        logits = logits.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
        if start is not None:
            logits = logits.masked_fill((torch.arange(T) < start[..., None])[:, None], float("-inf"))
        if valid is not None:
            logits = logits.masked_fill(~valid[:, None, :, None], float("-inf"))
        return logits.amax((0, 2, 3))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_it_equals_float64_with_gradients(widths, dtype):
    check(70, widths, dtype)


@pytest.mark.parametrize("T", [1, 31, 32, 33])
def test_lengths_beside_a_tile(T):
    check(T, WIDTHS[1], torch.float32, B=2)


def test_several_tiles_of_sixteen_bit():
    check(150, WIDTHS[1], torch.bfloat16, B=2, batched=True)


def test_padded_queries_do_not_count_in_the_maximum():
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[0, 25:] = False
    valid[1, :3] = False
    check(40, WIDTHS[1], torch.float32, B=2, valid=valid)


def test_without_a_valid_query_the_maximum_is_minus_infinity():
    leaves, turn = operands(5, WIDTHS[1], torch.float32)
    _, largest = fused.latent_attention(*leaves, turn, 0.1, torch.zeros(1, 5, dtype=torch.bool))
    assert largest.tolist() == [float("-inf")] * 2


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_documents_do_not_see_each_other(dtype):
    starts = [[0, 1, 2, 40, 66, 67], [0, 35, 36]]  # documents of one token among them
    start = torch.zeros(2, 70, dtype=torch.int32)
    for row, begins in zip(start, starts, strict=True):
        for begin in begins:
            row[begin:] = begin
    check(70, WIDTHS[1], dtype, B=2, start=start)


def test_a_document_has_the_bits_that_it_has_alone():
    leaves, turn = operands(32 + 20, WIDTHS[1], torch.float32)
    start = torch.zeros(1, 52, dtype=torch.int32)
    start[:, 32:] = 32
    y, _ = fused.latent_attention(*leaves, turn, SCALE, None, start)
    alone, _ = fused.latent_attention(*[leaf[:, 32:].contiguous() for leaf in leaves], turn[32:], SCALE)
    assert torch.equal(y[:, 32:], alone)


def test_atomics_give_the_same_gradients(monkeypatch):
    monkeypatch.setattr(fused, "ATOMIC", True)
    check(40, WIDTHS[1], torch.float32, B=2)


def test_a_nan_survives_the_maximum_and_other_heads_keep_theirs():
    leaves, turn = operands(40, WIDTHS[1], torch.float32)
    _, before = fused.latent_attention(*leaves, turn, SCALE)
    with torch.no_grad():
        leaves[0][0, 37, 1, 3] = float("nan")
    _, after = fused.latent_attention(*leaves, turn, SCALE)
    assert after[0] == before[0]
    assert after[1].isnan()


def test_a_nan_in_the_future_stays_there():
    leaves, turn = operands(40, WIDTHS[1], torch.float32)
    y, _ = fused.latent_attention(*leaves, turn, SCALE)
    with torch.no_grad():
        leaves[1][0, 39, 0, 3] = float("nan")  # a key's content
    poisoned, _ = fused.latent_attention(*leaves, turn, SCALE)
    assert torch.equal(poisoned[:, :39], y[:, :39])
    assert poisoned[0, 39, 0].isnan().all()


def test_every_output_is_written(monkeypatch):
    poison(monkeypatch)
    for result in check(33, WIDTHS[1], torch.float32, B=2):
        assert result.isfinite().all()


def test_two_runs_have_the_same_bits():
    leaves, turn = operands(40, WIDTHS[1], torch.bfloat16)
    first = results(fused.latent_attention, leaves, turn)
    for leaf in leaves:
        leaf.grad = None
    for one, other in zip(first, results(fused.latent_attention, leaves, turn), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda q, kv, k: (q.double(), kv, k), "must all be bfloat16, float16 or float32"),
        (lambda q, kv, k: (q[..., 8:], kv[..., 8:], k), r"heads of 24 \+ 16 and 32 channels are not among"),
        (lambda q, kv, k: (q.transpose(1, 2), kv, k), r"the queries \(1×2×5×48\) are a view with strides"),
    ],
)
def test_other_operands_are_refused_by_name(change, sentence):
    leaves, _ = operands(5, WIDTHS[1], torch.float32)
    with torch.no_grad():
        refusal = fused.refusal(*change(*leaves))
    assert re.search(sentence, refusal)
    assert not fused.refusal(*leaves)
