"""FP8 storage's kernels have the bits of torch's, which is their specification."""

import pytest
import torch

from kernels import fp8_rows
from kernels.gpu import fp8_rows as fused
from tests.triton.near import draws, poison

ROWS = {
    "one block": (3, 128), "a short block": (5, 200), "a single number": (1, 1), "more than a program": (9, 300),
    "none": (0, 40),
}  # fmt: skip


def same_bits(one, other):
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("shape", ROWS.values(), ids=ROWS)
def test_codes_scales_and_numbers_equal_torchs(shape, power_of_two, dtype, monkeypatch):
    x = draws(1, *shape, dtype=dtype) * torch.logspace(-6, 6, max(shape[0], 1))[: shape[0], None].to(dtype)
    codes, scales = fp8_rows.reference(x, power_of_two)
    poison(monkeypatch)
    got_codes, got_scales = fused.compress(x, power_of_two)
    assert same_bits(got_codes, codes)
    assert torch.equal(got_scales, scales)
    assert torch.equal(fused.expand(codes, scales, dtype), fp8_rows.expand(codes, scales, dtype))


def test_every_code_is_read_as_torch_reads_it():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    scales = torch.tensor([[0.5, 3.0]])
    got, expected = fused.expand(codes, scales, torch.float32), fp8_rows.expand(codes, scales, torch.float32)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_zeros_have_scale_one_and_a_broken_block_is_nan():
    x = draws(1, 1, 512, dtype=torch.float32)
    x[0, :128], x[0, 130], x[0, 260] = 0.0, float("nan"), float("inf")
    codes, scales = fused.compress(x)
    assert scales[0, 0] == 1.0
    out = fused.expand(codes, scales, torch.float32).view(4, 128)
    assert torch.equal(out[0], torch.zeros(128))
    assert out[1].isnan().all()
    assert out[2].isnan().all()
    assert out[3].isfinite().all()


def test_powers_of_two_are_the_nearest_above():
    largest = torch.tensor([[448.0], [448.1], [447.0], [2.0**-20 * 448], [1e-38], [3e38]])
    _, scales = fused.compress(largest, True)
    assert scales[:4, 0].tolist() == [1.0, 2.0, 1.0, 2.0**-20]
    assert torch.equal(scales, fp8_rows.reference(largest, True)[1])


def test_rows_of_a_wider_matrix_are_read_in_place():
    wide = draws(1, 4, 300, dtype=torch.bfloat16)
    assert same_bits(fused.compress(wide[:, :150])[0], fused.compress(wide[:, :150].contiguous())[0])


def test_other_operands_are_refused_by_name():
    assert "numbers are float64, and must be" in fused.refusal(torch.ones(2, 3), torch.float64)
    assert "(2×3) are a view with strides (1, 2)" in fused.refusal(torch.ones(3, 2).T, torch.float32)
    assert not fused.refusal(torch.ones(2, 3), torch.float32)
