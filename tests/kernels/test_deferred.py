"""Weights' gradients set aside: none before they are taken, and then the bits of an ordinary backward."""

from contextlib import nullcontext

import pytest
import torch
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight
from torch.utils.checkpoint import checkpoint

from kernels import experts as kernel
from kernels import precision
from kernels.deferred import deferring, taken
from kernels.experts import experts
from kernels.linear import linear
from tests.engine.tiny import config

TYPES = [(torch.float64, False), (torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]
"""The type of weights and inputs, and whether autocast is on."""
SIZES = config()


def draws(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mapped(weights, seed, dtype, cast):
    """A linear map and experts, with their loss; None where nothing requires it."""
    x = draws(seed, 3, 30, 32, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        y = linear(x, weights[0])
        rows = y.flatten(0, 1)
        chosen = draws(seed + 1, 90, 6).topk(2).indices
        gates = rows[:, :2].float().sigmoid()
        z = experts(rows.to(torch.bfloat16) if cast else rows, chosen, gates.to(dtype), weights[1], weights[2])
    return x, (z.to(dtype) * draws(seed + 2, *z.shape, dtype=dtype)).sum() + y.square().sum()


def weights_of(dtype):
    return [
        draws(9 + n, *shape, dtype=dtype).requires_grad_()
        for n, shape in enumerate([(32, 32), (6, 32, 32), (6, 32, 16)])
    ]


@pytest.fixture(params=[True, False], ids=["multiplies bf16", "emulates bf16"])
def native(request, monkeypatch):
    monkeypatch.setattr(precision, "_cpu_multiplies_bf16", lambda: request.param)


@pytest.mark.parametrize(("dtype", "cast"), TYPES, ids=str)
@pytest.mark.usefixtures("native")
def test_two_backwards_give_the_bits_of_ordinary_ones(dtype, cast):
    plain, aside = weights_of(dtype), weights_of(dtype)
    inputs = []
    for seed in (1, 2):
        x, loss = mapped(plain, seed, dtype, cast)
        loss.backward()
        inputs.append(x.grad)
    with deferring():
        parts = []
        for seed, expected in zip((1, 2), inputs, strict=True):
            x, loss = mapped(aside, seed, dtype, cast)
            loss.backward()
            parts.append(taken())
            assert torch.equal(x.grad, expected)
        assert all(weight.grad is None for weight in aside)
        for part in parts:
            part()
    for weight, expected in zip(aside, plain, strict=True):
        assert weight.grad.dtype == dtype
        assert torch.equal(weight.grad, expected.grad)


def test_a_backward_outside_adds_its_gradients_at_once():
    plain, aside = weights_of(torch.float32), weights_of(torch.float32)
    mapped(plain, 1, torch.float32, cast=False)[1].backward()
    with deferring():
        _, loss = mapped(aside, 1, torch.float32, cast=False)
    loss.backward()
    assert all(torch.equal(a.grad, p.grad) for a, p in zip(aside, plain, strict=True))
    with pytest.raises(RuntimeError, match="no gradients of weights are being set aside"):
        taken()


def test_a_recomputed_forward_sets_aside_once():
    """Under activation checkpointing the forward runs again within the backward; the weights' part runs neither."""
    plain, aside = weights_of(torch.float32), weights_of(torch.float32)

    def loss_of(x, weights):
        y = linear(x, weights[0])
        z = experts(y.flatten(0, 1), draws(2, 90, 6).topk(2).indices, y.flatten(0, 1)[:, :2].sigmoid(), *weights[1:])
        return (z * draws(3, *z.shape)).sum() + y.square().sum()

    loss_of(draws(1, 3, 30, 32).requires_grad_(), plain).backward()
    with deferring():
        checkpoint(loss_of, draws(1, 3, 30, 32).requires_grad_(), aside, use_reentrant=False).backward()
        part = taken()
        assert all(weight.grad is None for weight in aside)
        part()
        taken()()
    assert all(torch.equal(a.grad, p.grad) for a, p in zip(aside, plain, strict=True))


@pytest.mark.parametrize("way", ["torch's own split", "set aside"])
def test_a_function_by_hand_runs_once_only_where_it_sets_aside(way, monkeypatch):
    """Both ways give the same gradients, but torch's goes through the graph once more for the weights."""
    calls, backward = [], kernel._Experts.backward
    monkeypatch.setattr(kernel._Experts, "backward", staticmethod(lambda *given: calls.append(1) or backward(*given)))
    plain, split = weights_of(torch.float32), weights_of(torch.float32)
    chosen, gates, dy = draws(2, 90, 6).topk(2).indices, draws(3, 90, 2).sigmoid(), draws(4, 90, 32)
    inputs = [draws(1, 90, 32).requires_grad_() for _ in range(2)]
    experts(inputs[0], chosen, gates, *plain[1:]).backward(dy)
    calls.clear()
    with deferring() if way == "set aside" else nullcontext():
        y = experts(inputs[1], chosen, gates, *split[1:])
        if way == "set aside":
            y.backward(dy)
            taken()()
        else:
            _, groups = stage_backward_input([y], [dy], [inputs[1]], iter(split[1:]))
            stage_backward_weight(iter(split[1:]), groups)
    assert len(calls) == (1 if way == "set aside" else 2)
    assert torch.equal(inputs[1].grad, inputs[0].grad)
    assert all(torch.equal(a.grad, p.grad) for a, p in zip(split[1:], plain[1:], strict=True))
