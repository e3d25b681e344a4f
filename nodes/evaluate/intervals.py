"""How sure a figure is: Wilson's interval for shares, a keyed bootstrap for means and ratios.

Everything here is a pure function of its arguments; the bootstrap draws from a generator keyed by (seed, purpose).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000  # percentile ends move by less than a tenth of the interval's width between seeds


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Share `successes`/`n` with Wilson's score interval, which stays inside [0, 1] and is honest near its ends.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    purpose: str,
    confidence: float = 0.95,
) -> Interval:
    """Sum of numerators over sum of denominators (bits over bytes, say), with a percentile bootstrap over the pairs.

    The unit that is resampled is one pair: a document, a window, a prompt. With a single pair the interval is the
    value itself. Raises ValueError on no pairs, or lengths that differ.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1 or above.size == 0:
        raise ValueError(f"bootstrap_ratio needs two equal, non-empty lists, not {above.size} and {below.size} values")
    value = float(above.sum() / below.sum())
    picks = _generator(seed, purpose).multinomial(above.size, np.full(above.size, 1 / above.size), size=RESAMPLES)
    totals = picks @ below
    ratios = np.divide(picks @ above, totals, out=np.full(RESAMPLES, value), where=totals > 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def bootstrap_mean(values: Sequence[float], seed: int, purpose: str, confidence: float = 0.95) -> Interval:
    """Mean of `values` with its percentile bootstrap interval."""
    return bootstrap_ratio(values, [1.0] * len(values), seed, purpose, confidence)


def paired_difference(
    after: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    seed: int,
    purpose: str,
    confidence: float = 0.95,
) -> Interval:
    """Difference of two ratios, each given as [numerators, denominators] over the same items in the same order.

    Pairing takes the items' difficulty out of the interval. Raises ValueError if the two are not about the same
    items: as many, and with the same denominators (bytes of each document; ones for shares).
    """
    (above_after, below_after), (above_before, below_before) = after, before
    if list(below_after) != list(below_before) or len(above_after) != len(above_before):
        raise ValueError("paired_difference needs the same items, with the same denominators, in both lists")
    differences = [a - b for a, b in zip(above_after, above_before, strict=True)]
    return bootstrap_ratio(differences, below_after, seed, purpose, confidence)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    key = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest())
    return np.random.Generator(np.random.PCG64([seed, key]))
