"""torch's multi-tensor kernels, which have no public name, are there and compute what the optimizers rely on."""

import pytest
import torch

from engine.optim import foreach


@pytest.mark.parametrize("name", ["_foreach_copy_", "_foreach_mul_", "_foreach_add_", "_foreach_add"])
def test_torch_has_the_kernel(name: str) -> None:
    assert hasattr(torch, name), (
        f"torch {torch.__version__} has no torch.{name}, which torch 2.13.0 had: "
        "write the function of engine/optim/foreach.py that uses it anew."
    )


def test_they_compute_tensor_by_tensor() -> None:
    a, b = [torch.arange(3.0), torch.ones(2, 2)], [torch.full((3,), 0.5), torch.eye(2)]
    expected = [one + 3.0 * other for one, other in zip(a, b, strict=True)]
    assert all(map(torch.equal, foreach.add(a, b, alpha=3.0), expected))
    foreach.add_(a, b, alpha=3.0)
    assert all(map(torch.equal, a, expected))
    foreach.mul_(a, 0.5)
    assert all(map(torch.equal, a, [one * 0.5 for one in expected]))
    narrow = [torch.empty_like(one, dtype=torch.bfloat16) for one in a]
    foreach.copy_(narrow, a)
    assert all(map(torch.equal, narrow, [one.bfloat16() for one in a]))
