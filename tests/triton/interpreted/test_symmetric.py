"""Symmetric products: against float64, at sizes beside a tile, and as Newton–Schulz uses them."""

import pytest
import torch

from kernels import choice
from kernels.gpu import symmetric as fused
from kernels.newton_schulz import Plan, newton_schulz, reference
from tests.triton.near import assert_near, draws, poison


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fused, "TILE", 16)
    monkeypatch.setattr(fused, "INNER", 16)
    monkeypatch.setattr(fused, "SMALLEST", 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 5), (16, 16), (35, 20), (48, 70)])
def test_products_equal_float64_and_are_mirrored(n, k, dtype, monkeypatch):
    x = draws(1, 2, n, k, dtype=dtype) / 4
    poison(monkeypatch)
    r = fused.product(x, x)
    r64 = x.double() @ x.double().mT
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 4e-3}[dtype]
    assert_near([r], [r64], tolerance)
    upper = torch.ones(n, n).triu(16).bool()
    assert torch.equal(r[:, upper], r.mT[:, upper])
    exact = r.double()
    expected = 2.0 * exact @ exact.mT - 4.8 * exact + 3.4 * torch.eye(n)
    assert_near([fused.product(r, r, r, 2.0, -4.8, 3.4)], [expected], tolerance)


def test_a_transposed_matrix_is_read_in_place():
    x = draws(1, 2, 20, 35, dtype=torch.bfloat16)
    assert torch.equal(fused.product(x.mT, x.mT), fused.product(x.mT.contiguous(), x.mT.contiguous()))


@pytest.mark.parametrize("restart", [1, 2])
@pytest.mark.parametrize("shape", [(2, 24, 40), (40, 24)])
def test_newton_schulz_uses_them_with_the_same_result(shape, restart, monkeypatch):
    x = draws(1, *shape, dtype=torch.float32)
    how = Plan(2, restart)
    plain = newton_schulz(x, dtype=torch.float16, how=how)
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    calls, product = [], fused.product
    monkeypatch.setattr(fused, "product", lambda *a: calls.append(1) or product(*a))
    got = newton_schulz(x, dtype=torch.float16, how=how)
    assert len(calls) == 10
    assert_near([got], [plain.double()], 1e-2)
    exact = torch.stack([reference(each) for each in x.reshape(-1, *shape[-2:])]).reshape(shape)
    assert_near([got], [exact], 2e-2)


def test_it_takes_large_matrices_of_sixteen_bit():
    assert fused.takes(torch.empty(1, 8, 9, dtype=torch.bfloat16))
    assert not fused.takes(torch.empty(1, 7, 9, dtype=torch.bfloat16))
    assert not fused.takes(torch.empty(1, 8, 9))
