"""Numbers for the kernels' tests, and how near a result is to float64's."""

import torch

NAN = float("nan")


def draws(seed, *shape, dtype=torch.float64):
    """Standard normal numbers, the same in every type but for its rounding."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights_like(y, seed=5):
    """Gradients for y, bf16 numbers in y's type: the same for a result in bf16 and for its reference."""
    return draws(seed, *y.shape, dtype=torch.bfloat16).to(y.dtype)


def assert_near(results, expected, tolerance):
    """Compare by norm: an absolute error where the expected result is smaller than 1."""
    for one, other in zip(results, expected, strict=True):
        assert one.shape == other.shape
        error = (one.double() - other).norm() / other.norm().clamp_min(1.0)
        assert error < tolerance, f"{error:.1e}"


def poison(monkeypatch):
    """Let new tensors of floats begin as NaN, so that what a kernel does not write shows."""
    for owner, name in ((torch.Tensor, "new_empty"), (torch, "empty_like"), (torch, "empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def poisoned(make):
    def filled(*args, **options):
        out = make(*args, **options)
        return out.fill_(NAN) if out.is_floating_point() else out

    return filled
