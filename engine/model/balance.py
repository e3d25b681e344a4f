"""The load of the busiest expert under perfect balance, when only chance is at work.

Even a router without preferences loads its experts unevenly, more so with fewer tokens; max/mean of a real router is
meaningful only in comparison with this floor.
"""

import math
from functools import lru_cache

import numpy as np


@lru_cache
def expected_maximum(n: int) -> float:
    """Return the mean of the largest of `n` independent standard normal numbers: 0 for 1, 2.38 for 64, 2.97 for 384."""
    x = np.linspace(-9.0, 9.0, 20_001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x]) ** n
    # ∫ x dF = upper end − ∫ F, F the distribution of the maximum
    return float(x[-1] - ((below[1:] + below[:-1]) / 2 * np.diff(x)).sum())


def load_floor(tokens: int, n_experts: int, k: int) -> float:
    """Return the expected max/mean load if each of `tokens` tokens chose `k` distinct experts by chance.

    Each load is then binomial, with mean Nk/E and standard deviation over mean √((E−k)/(kN)); the normal approximation
    used here is within 2 % from about ten tokens per expert on. It is 1 if every expert takes every token.
    """
    if tokens <= 0:
        return 1.0
    return 1.0 + expected_maximum(n_experts) * math.sqrt((n_experts - k) / (k * tokens))
