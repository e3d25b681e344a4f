"""Newton–Schulz orthogonalisation, batched over matrices of equal shape (Muon; Moonlight, arXiv 2502.16982).

Each step maps every singular value s to as + bs³ + cs⁵. There are two ways, equal in exact arithmetic: dense, on X
itself, and Gram, on the n×n matrix R = XXᵀ, applied to X once at the end. `plan` chooses by cost.

Shapes: … any batch axes, G matrices, n rows, m columns with n ≤ m inside (a tall matrix is transposed first).
"""

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from kernels.choice import has_triton, on_gpu
from kernels.newton_schulz_cost import products

Coefficients = Literal["jordan", "polar_express"]
Triple = tuple[float, float, float]

JORDAN: Triple = (3.4445, -4.7750, 2.0315)
"""K. Jordan's quintic, in every step: fast from below; values from 0.01 up end between 0.68 and 1.13, not settling."""
POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""The best quintic of each step for values from 1e-3 to 1 (Amsel et al., arXiv 2505.16932); the last one repeats."""
SAFETY = 1.01
"""Polar Express is tuned to end at 1 exactly; all steps but the last get this room for rounding (section 3.4)."""
STEPS = 5
GUARD = 1e-7

RESTART = 2
"""Steps between two computations of R below fp32: rounding gives R eigenvalues near -1e-2, which every step
multiplies by up to a²; after two steps they are harmless, after three or five not (ill-conditioned inputs show it)."""
TOGETHER = {"cpu": 2**18, "cuda": 2**28}
"""Numbers in the matrices iterated on together. On a CPU a megabyte in fp32, which stays in the cache: 384 matrices
64×128 at once take 1.4 times as long. On a GPU a gigabyte, so that memory stays bounded."""
CALL = 6e-6
"""Seconds to start one operation from Python."""
RATE = {"cpu": 80e9, "cuda": 400e12}
"""Multiplications and additions per second. CPU: measured on one AVX2 core in fp32, batches of 1 to 128 matrices from
16×64 to 384×384. GPU: not measured; there the ratio of the ways' products decides, whatever the rate is."""


def coefficients_of(name: Coefficients, steps: int) -> tuple[Triple, ...]:
    """Return (a, b, c) of each step; raises ValueError for an unknown name."""
    if name == "jordan":
        return (JORDAN,) * steps
    if name != "polar_express":
        raise ValueError(f"Newton–Schulz coefficients {name!r} are unknown; use jordan or polar_express")
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return tuple([*safe, *[POLAR_EXPRESS[-1]] * steps][:steps])


def reference(x_nm: Tensor, steps: int = STEPS, coefficients: Coefficients = "jordan") -> Tensor:
    """Specify the op in fp64 by singular values: each s is mapped to as + bs³ + cs⁵, `steps` times."""
    u, s, vt = torch.linalg.svd(x_nm.double(), full_matrices=False)
    s = s / (s.norm() + GUARD)
    for a, b, c in coefficients_of(coefficients, steps):
        s = a * s + b * s**3 + c * s**5
    out: Tensor = (u * s) @ vt
    return out


@dataclass(frozen=True)
class Plan:
    """`chunk` matrices at a time (1: a loop); R is recomputed every `restart` steps (1: dense, all steps: Gram)."""

    chunk: int
    restart: int


@lru_cache(maxsize=4096)
def plan(count: int, n: int, m: int, dtype: torch.dtype, device: str, steps: int = STEPS) -> Plan:
    """Return the cheapest way for `count` matrices n×m, n ≤ m, in `dtype` on a device type.

    It depends on its arguments alone and must not time the machine: the ways round differently, and two machines would
    make different weights under one stage key.
    """
    longest = steps if dtype in (torch.float32, torch.float64) else RESTART
    room = TOGETHER.get(device, TOGETHER["cuda"])
    dense = Plan(min(count, max(1, room // (2 * n * (n + m)))), 1)
    gram = Plan(min(count, max(1, room // (4 * n * n))), longest)
    return min(dense, gram, key=lambda how: cost(how, count, n, m, device, steps))


def cost(how: Plan, count: int, n: int, m: int, device: str, steps: int = STEPS) -> float:
    """Return the seconds for `count` matrices: operations to start, and products in units of two n×n matrices."""
    calls = 3 * steps if how.restart == 1 else 5 * steps + steps // -how.restart
    work = count * products(n, m, steps, how.restart) * 2 * n**3
    return -(-count // how.chunk) * calls * CALL + work / RATE.get(device, RATE["cuda"])


@torch.no_grad()
def newton_schulz(
    x: Tensor,
    steps: int = STEPS,
    dtype: torch.dtype = torch.bfloat16,
    coefficients: Coefficients = "jordan",
    how: Plan | None = None,
) -> Tensor:
    """Return each matrix of x (…, n, m) nearly orthogonalised, U·Vᵀ of its singular vectors, with x's type and shape.

    Computes in `dtype`; `how` None lets `plan` choose. A zero matrix stays zero.
    """
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mT if tall else x).flatten(0, -3) if x.ndim > 2 else (x.mT if tall else x)[None]
    count, n, m = y.shape
    if how is None:  # is_cpu: device.type would cost a small matrix 3 % of its time
        how = plan(count, n, m, dtype, "cpu" if x.is_cpu else "cuda", steps)
    triples = coefficients_of(coefficients, steps)
    iterate = _dense if how.restart == 1 else _gram
    if count <= how.chunk:
        out = iterate(_normalised(y, dtype), triples, how.restart).to(x.dtype)
    else:
        out = torch.empty(y.shape, dtype=x.dtype, device=x.device)
        for part, place in zip(y.split(how.chunk), out.split(how.chunk)):
            place.copy_(iterate(_normalised(part, dtype), triples, how.restart))
    shaped: Tensor = (out.mT if tall else out).reshape(x.shape)
    return shaped


def _normalised(x_Gnm: Tensor, dtype: torch.dtype) -> Tensor:
    norm_G11 = torch.linalg.vector_norm(x_Gnm, dim=(-2, -1), keepdim=True)
    return torch.div(x_Gnm, norm_G11 + GUARD).to(dtype)


def _dense(x_Gnm: Tensor, triples: tuple[Triple, ...], _: int) -> Tensor:
    """Compute X ← aX + (bR + cR²)X with R = XXᵀ in each step."""
    if (symmetric := _triton(x_Gnm)) is not None:
        for a, b, c in triples:
            r = symmetric.product(x_Gnm, x_Gnm)
            x_Gnm = torch.baddbmm(x_Gnm, symmetric.product(r, r, r, c, b), x_Gnm, beta=a)
        return x_Gnm
    for a, b, c in triples:
        r = torch.bmm(x_Gnm, x_Gnm.mT)
        x_Gnm = torch.baddbmm(x_Gnm, torch.baddbmm(r, r, r, beta=b, alpha=c), x_Gnm, beta=a)
    return x_Gnm


def _triton(x_Gnm: Tensor) -> ModuleType | None:
    """Return the Triton kernel of symmetric products where it takes these matrices, else None."""
    if on_gpu(x_Gnm) and has_triton("symmetric"):
        from kernels.gpu import symmetric

        if symmetric.takes(x_Gnm):
            return symmetric
    return None


def _gram(x_Gnm: Tensor, triples: tuple[Triple, ...], restart: int) -> Tensor:
    """Compute steps on R: with P = aI + bR + cR², X ← PX and R ← PRP, keeping only R and the product Q of the P."""
    symmetric = _triton(x_Gnm)
    for start in range(0, len(triples), restart):
        segment = triples[start : start + restart]
        r = torch.bmm(x_Gnm, x_Gnm.mT) if symmetric is None else symmetric.product(x_Gnm, x_Gnm)
        q = p = _polynomial(r, segment[0], symmetric)
        for triple in segment[1:]:
            rp = torch.bmm(r, p)
            r = torch.bmm(rp, p) if symmetric is None else symmetric.product(rp, p)
            p = _polynomial(r, triple, symmetric)
            q = torch.bmm(q, p)
        x_Gnm = torch.bmm(q, x_Gnm)
    return x_Gnm


def _polynomial(r_Gnn: Tensor, triple: Triple, symmetric: ModuleType | None) -> Tensor:
    """Return aI + bR + cR²."""
    a, b, c = triple
    if symmetric is not None:
        return symmetric.product(r_Gnn, r_Gnn, r_Gnn, c, b, a)  # type: ignore[no-any-return]  # of a module by value
    p: Tensor = torch.baddbmm(r_Gnn, r_Gnn, r_Gnn, beta=b, alpha=c)
    p.diagonal(dim1=-2, dim2=-1).add_(a)
    return p
