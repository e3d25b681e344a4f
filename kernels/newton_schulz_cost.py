"""What Newton–Schulz costs: arithmetic without torch, for the choice of a form and for those who share out the work."""


def products(n: int, m: int, steps: int, restart: int) -> float:
    """Return the products of one n×m matrix, n ≤ m, in units of two n×n matrices multiplied.

    R = XXᵀ is recomputed every `restart` steps (1: the dense form, all steps: the Gram form).
    """
    if restart == 1:
        return steps * (1 + 2 * m / n)
    segments = -(-steps // restart)
    return 4 * steps - 3 * segments + segments * 2 * m / n


def multiplications(n: int, m: int, steps: int = 5, restart: int = 2) -> float:
    """Return the multiplications and additions for one n×m matrix in the cheaper of the forms.

    `restart` 2 is the Gram form of bf16.

    >>> multiplications(2048, 7168) / 1e12, multiplications(7168, 2048) == multiplications(2048, 7168)
    (0.549755813888, True)
    """
    n, m = min(n, m), max(n, m)
    return min(products(n, m, steps, 1), products(n, m, steps, restart)) * 2 * n**3
