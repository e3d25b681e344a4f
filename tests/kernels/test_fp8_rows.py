"""Rows in FP8: the specification's numbers whatever the chunks, within E4M3's rounding of the values."""

import pytest
import torch

from kernels import fp8_rows
from kernels.fp8_rows import BLOCK, compress, expand, reference


def draws(*shape):
    """Numbers whose blocks differ in size by powers of ten."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x * 10.0 ** torch.randint(-6, 7, (*shape[:-1], 1), generator=torch.Generator().manual_seed(2))


def block_by_block(x):
    """The values that are kept, in Python's own arithmetic: the nearest of E4M3's numbers times the scale."""
    finite = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = finite[finite.isfinite()].double()
    out = torch.empty_like(x, dtype=torch.float64)
    for row, kept in zip(x.double(), out):
        for start in range(0, len(row), BLOCK):
            part = row[start : start + BLOCK]
            scale = float((part.abs().max() / 448).float()) or 1.0
            nearest = (part[:, None] / scale - finite).abs().argmin(-1)
            kept[start : start + BLOCK] = finite[nearest] * scale
    return out


@pytest.mark.parametrize("width", [1, 5, 128, 200, 384])
@pytest.mark.parametrize("chunk", [1, 300, 2**20])
def test_chunks_do_not_matter(width, chunk, monkeypatch):
    monkeypatch.setattr(fp8_rows, "CHUNK", chunk)
    x = draws(3, 4, width)
    codes, scales = compress(x)
    wanted_codes, wanted_scales = reference(x)
    assert torch.equal(codes.float(), wanted_codes.float())
    assert torch.equal(scales, wanted_scales)
    assert (codes.dtype, codes.shape) == (torch.float8_e4m3fn, x.shape)
    assert (scales.dtype, scales.shape) == (torch.float32, (3, 4, -(-width // BLOCK)))


def test_each_number_is_the_nearest_that_its_block_can_hold():
    x = draws(4, 200)
    kept = expand(*compress(x), torch.float32).double()
    error, least = (kept - x.double()).abs(), (block_by_block(x) - x.double()).abs()
    assert (error <= least * (1 + 1e-5) + x.abs() * 1e-6).all()  # a tie may go either way
    assert error.norm() / x.norm() < 0.03
    assert error.norm() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_of_a_block_zeros_and_the_type_are_kept(dtype):
    x = torch.zeros(2, 256, dtype=dtype)
    x[0, 7], x[0, 130], x[1, 0] = 3.0, -1e-3, 448.0
    kept = expand(*compress(x), dtype)
    assert kept.dtype == dtype
    torch.testing.assert_close(kept, x, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_does_not_become_one(bad):
    x = torch.ones(2, 256)
    x[0, 3] = bad
    kept = expand(*compress(x), torch.float32)
    assert not kept[0, :128].isfinite().all()
    assert torch.equal(kept[0, 128:], x[0, 128:])
    assert torch.equal(kept[1], x[1])
