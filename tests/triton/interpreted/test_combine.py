"""The sum over a token's experts: values against float64, repeated rows, widths beside a block."""

import pytest
import torch

from kernels import choice
from kernels.experts import gather_sum
from kernels.gpu import combine as fused
from tests.triton.near import assert_near, draws, poison


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [1, 40, 70])
def test_it_equals_float64(D, dtype, monkeypatch):
    monkeypatch.setattr(fused, "BLOCK", 64)
    rows, index = draws(1, 6, D, dtype=dtype), torch.tensor([[0, 5, 5], [2, 1, 0]])
    poison(monkeypatch)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    assert_near([fused.gather_sum(rows, index)], [rows.double()[index].sum(1)], tolerance)


def test_rows_of_a_wider_matrix_are_read_in_place():
    wide, index = draws(1, 4, 30, dtype=torch.float32), torch.tensor([[3, 0]])
    assert torch.equal(fused.gather_sum(wide[:, :12], index), wide[index, :12].sum(1))


def test_no_token_is_no_error():
    assert fused.gather_sum(torch.ones(3, 8), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 8)


def test_the_public_function_runs_it(monkeypatch):
    rows, index = draws(1, 6, 8, dtype=torch.float32), torch.tensor([[0, 5], [2, 1]])
    expected = gather_sum(rows, index)
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    with choice.strict():
        torch.testing.assert_close(gather_sum(rows, index), expected)


def test_other_operands_are_refused_by_name():
    assert "rows are float64, and must be" in fused.refusal(torch.ones(2, 3).double())
    assert "(3×2) are a view with strides (1, 3)" in fused.refusal(torch.ones(2, 3).T)
    assert not fused.refusal(torch.ones(2, 3))
