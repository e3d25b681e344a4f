"""Newton–Schulz orthogonalisation, batched over matrices of equal shape (Muon; Moonlight, arXiv 2502.16982).

Shapes: … any batch axes, n rows, m columns.
"""

import torch
from torch import Tensor

JORDAN = (3.4445, -4.7750, 2.0315)
"""K. Jordan's quintic: singular values end within about 0.7 to 1.2, fast from below."""
STEPS = 5
GUARD = 1e-7


def reference(x_nm: Tensor, steps: int = STEPS) -> Tensor:
    """The specification in fp64, by singular values: each s goes through as + bs³ + cs⁵, `steps` times."""
    u, s, vt = torch.linalg.svd(x_nm.double(), full_matrices=False)
    s = s / (s.norm() + GUARD)
    a, b, c = JORDAN
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    out: Tensor = (u * s) @ vt
    return out


@torch.no_grad()
def newton_schulz(x: Tensor, steps: int = STEPS, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly orthogonalise each matrix of x (…, n, m): U·V^T of its singular vectors; type and shape of x.

    Iterates X ← aX + b(XXᵀ)X + c(XXᵀ)²X on the orientation with fewer rows than columns, in `dtype`.
    """
    a, b, c = JORDAN
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = (y / (y.norm(dim=(-2, -1), keepdim=True) + GUARD)).to(dtype).reshape(-1, *y.shape[-2:])
    for _ in range(steps):
        gram = torch.bmm(y, y.mT)
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.mT if tall else y).to(x.dtype).view_as(x)
