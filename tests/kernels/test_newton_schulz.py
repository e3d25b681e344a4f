"""Newton–Schulz against its specification by singular values, on spectra that are hard for it, in every form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.newton_schulz import (
    CALL,
    JORDAN,
    RATE,
    RESTART,
    STEPS,
    TOGETHER,
    Plan,
    coefficients_of,
    cost,
    newton_schulz,
    plan,
    reference,
)

LOOP, GRAM, RESTARTED = Plan(1, 1), Plan(100, STEPS), Plan(100, RESTART)
SHAPES = [(16, 64), (64, 64), (64, 16), (48, 96), (128, 256)]
SETS = ("jordan", "polar_express")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def draws(seed, *shape):
    return torch.randn(*shape, generator=generator(seed))


def with_spectrum(n, m, s):
    """A matrix with the singular values `s`, its singular vectors drawn."""
    u, v = (torch.linalg.qr(draws(seed, size, len(s)).double())[0] for seed, size in ((1, n), (2, m)))
    return ((u * s) @ v.T).float()


def power(exponent):
    return lambda n, m: with_spectrum(n, m, torch.arange(1, min(n, m) + 1, dtype=torch.float64) ** exponent)


def duplicated(n, m):
    half = draws(3, n // 2, m)
    return torch.cat((half, half))


INPUTS = {
    "gaussian": lambda n, m: draws(4, n, m),
    "rank 8": lambda n, m: draws(5, n, 8) @ draws(6, 8, m),
    "rank 1": lambda n, m: draws(5, n, 1) @ draws(6, 1, m),
    "i^-1.5": power(-1.5),
    "i^-3": power(-3.0),
    "duplicated rows": duplicated,
}


def largest(x):
    return float(torch.linalg.svdvals(x.double()).max())


@pytest.mark.parametrize("coefficients", SETS)
@pytest.mark.parametrize("how", [LOOP, Plan(100, 1), GRAM], ids=["loop", "batched", "gram"])
@pytest.mark.parametrize("kind", INPUTS)
def test_in_fp32_every_form_is_the_map_of_singular_values(kind, how, coefficients):
    """Gram squares the condition, so what is lost in R's rounding is lost for good: 3e-3 at i^-3, elsewhere less."""
    worst = 3e-4 if how.restart == 1 else 5e-3 if kind in ("i^-3", "i^-1.5") else 1e-3
    for shape in SHAPES:
        x = INPUTS[kind](*shape)
        got, expected = newton_schulz(x, STEPS, torch.float32, coefficients, how), reference(x, STEPS, coefficients)
        assert float((got - expected).norm() / expected.norm()) <= worst
        assert largest(got) <= 1.3


@pytest.mark.parametrize("coefficients", SETS)
@pytest.mark.parametrize("how", [LOOP, Plan(100, 1), RESTARTED], ids=["loop", "batched", "gram with restart"])
@pytest.mark.parametrize("kind", INPUTS)
def test_in_bf16_no_singular_value_passes_1_3(kind, how, coefficients):
    for shape in SHAPES:
        x = INPUTS[kind](*shape)
        got = newton_schulz(x, STEPS, torch.bfloat16, coefficients, how)
        assert largest(got) <= 1.3
        if kind == "gaussian":
            expected = reference(x, STEPS, coefficients)
            assert float((got - expected).norm() / expected.norm()) <= 0.1


@pytest.mark.parametrize("coefficients", SETS)
def test_gram_in_bf16_without_restart_fails_where_a_gaussian_would_not_tell(coefficients):
    """Why `plan` never chooses it: this is the failure that the grid above keeps out."""
    wide, bad = (INPUTS[kind](48, 192) for kind in ("gaussian", "i^-3"))
    assert largest(newton_schulz(wide, STEPS, torch.bfloat16, coefficients, GRAM)) < 1.3
    assert largest(newton_schulz(bad, STEPS, torch.bfloat16, coefficients, GRAM)) > 1e3
    for n, m in ((48, 192), (2048, 7168), (64, 128)):
        for device in ("cpu", "cuda"):
            assert plan(384, n, m, torch.bfloat16, device).restart <= RESTART


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16), (3, 12, 20), (2, 3, 20, 12), (1, 5), (5, 1)])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_any_batch_and_orientation_in_any_chunks(shape, chunk):
    x = draws(7, *shape)
    got = newton_schulz(x, dtype=torch.float32, how=Plan(chunk, 1))
    expected = torch.stack([reference(m) for m in x.view(-1, *shape[-2:])]).view(shape)
    torch.testing.assert_close(got, expected.float(), rtol=1e-3, atol=1e-3)
    assert got.dtype == x.dtype


def test_zero_stays_zero_also_within_a_stack():
    x = draws(8, 3, 6, 9)
    x[1] = 0
    for how in (LOOP, GRAM, RESTARTED):
        got = newton_schulz(x, how=how)
        assert got[1].count_nonzero() == 0
        assert (got[0].count_nonzero(), got[2].count_nonzero()) == (54, 54)


def test_coefficients_last_for_any_number_of_steps():
    assert coefficients_of("jordan", 3) == (JORDAN,) * 3
    long = coefficients_of("polar_express", 12)
    assert len(long) == 12
    assert long[:5] == coefficients_of("polar_express", 5)
    assert long[7:] == ((1.875, -1.25, 0.375),) * 5
    s = torch.tensor(0.02, dtype=torch.float64)
    for a, b, c in long:
        s = a * s + b * s**3 + c * s**5
    assert float(s) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="use jordan or polar_express"):
        coefficients_of("newton", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    count=st.integers(1, 500),
    n=st.integers(1, 600),
    aspect=st.integers(1, 8),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_a_plan_is_the_cheapest_of_all_that_fit_the_cache(dtype, count, n, aspect, device):
    """Against every number of matrices at a time, in either form; one alone need not fit. In bf16 Gram restarts."""
    m, longest = n * aspect, STEPS if dtype == torch.float32 else RESTART
    fitting = [
        Plan(chunk, restart)
        for restart, numbers in ((1, 2 * n * (n + m)), (longest, 4 * n * n))
        for chunk in range(1, count + 1)
        if chunk == 1 or chunk * numbers <= TOGETHER[device]
    ]
    made = plan(count, n, m, dtype, device)
    assert made in fitting
    assert cost(made, count, n, m, device) == min(cost(how, count, n, m, device) for how in fitting)


def test_a_plan_takes_the_form_that_multiplies_less():
    """In products of two n×n matrices, by hand: at m = n dense 15 and Gram 19; at m = 8n 85 and 33, restarted 59."""
    for device in ("cpu", "cuda"):
        assert plan(4, 2048, 2048, torch.float32, device).restart == 1
        assert plan(4, 2048, 8 * 2048, torch.float32, device).restart == STEPS
        assert plan(4, 2048, 8 * 2048, torch.bfloat16, device).restart == RESTART


@pytest.mark.parametrize("how", [Plan(2, 1), Plan(2, STEPS), Plan(2, RESTART)])
def test_the_cost_counts_the_products_that_are_made(monkeypatch, how):
    """Multiplications and additions of the executed products, and the operations started, against the model's own."""
    done, calls = [], []

    def counted(real):
        def product(*operands, **rest):
            a, b = operands[-2:]
            done.append(2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2])
            return real(*operands, **rest)

        return product

    for name in ("bmm", "baddbmm"):
        monkeypatch.setattr(torch, name, counted(getattr(torch, name)))
    diagonal = torch.Tensor.diagonal
    monkeypatch.setattr(torch.Tensor, "diagonal", lambda *a, **k: calls.append(1) or diagonal(*a, **k))
    newton_schulz(draws(9, 3, 8, 24), how=how)
    seconds = cost(how, 3, 8, 24, "cpu")
    assert seconds == pytest.approx((len(done) + len(calls)) * CALL + sum(done) / RATE["cpu"])
