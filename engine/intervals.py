"""Confidence intervals of figures, given that a document's windows, or its questions, resemble each other.

Figures are ratios of sums (bits over bytes, right answers over questions) of independent items; an item with several
parts (a document read in many windows) enters with its sums, so that an interval covers other documents and not other
windows of the same ones. For the items c = 1…C with sums y_c and x_c, the figure is r = Σy_c / Σx_c.

- Ratios: bootstrap over items. C of them are drawn with replacement and the ratio of their sums is taken, 2,000 times;
  the interval's ends are quantiles of these, at the level that widens them as Student's t does for few items
  (Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015: expanded
  percentiles). Unequal items count as (Σx_c)²/Σx_c² equal ones (Kish). With fewer than five items even this is too
  narrow, since no resample lies beyond them.
- Shares: Wilson's interval at the effective number of answers n* = p(1 − p)/V, where V = Σ(y_c − p·x_c)²/(Σx_c)² is the
  linearised variance of a ratio over clusters (Cochran, Sampling Techniques, 1977, chapters 6 and 9A) and n/n* is
  Kish's design effect. If all items agree, n* = (Σx_c)²/Σx_c², as if an item's answers were one.

With one answer per item both are the plain intervals over answers; with equal answers within each item they are those
of one answer per item. A single item says nothing about others: a ratio then has no interval.

Everything here is a pure function of its arguments; the bootstrap draws from a generator keyed by (seed, purpose).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import isfinite, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 2000  # percentile ends move by less than a tenth of the interval's width between seeds


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its confidence interval; None if there is only one item."""

    value: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; raises ValueError if there is only one item, which leaves them open."""
        if self.low is None or self.high is None:
            raise ValueError(f"of {self.value}, from one item alone, no interval is known")
        return self.low, self.high

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known, finite, and lies on one side of zero."""
        if self.low is None or self.high is None or not (isfinite(self.low) and isfinite(self.high)):
            return False
        return not self.low <= 0 <= self.high


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Return the share `successes`/`n` with Wilson's score interval, which stays inside [0, 1] and holds near its ends.

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


def clustered_share(right: Sequence[float], counts: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the share of right answers with Wilson's interval at their effective number; `right[c]` of `counts[c]`.

    Raises ValueError if there are no items, or on impossible counts.
    """
    above, below = _paired(right, counts)
    if (above < 0).any() or (above > below).any() or (below <= 0).any():
        raise ValueError("clustered_share needs 0 <= right <= counts and counts > 0 for every item")
    total = float(below.sum())
    share = float(above.sum()) / total
    variance = float(((above - share * below) ** 2).sum()) / total**2
    effective = min(share * (1 - share) / variance, total) if variance > 0 else _equal_items(below)
    return replace(wilson(share * effective, effective, confidence), value=share)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    purpose: str,
    confidence: float = 0.95,
) -> Interval:
    """Return the ratio of two sums (bits over bytes, say) with a bootstrap interval over the items.

    One pair is one independent item: a document with all its windows, a prompt. Raises ValueError if there are no
    items, or if the lengths differ.
    """
    above, below = _paired(numerators, denominators)
    n = above.size
    value = float(above.sum() / below.sum())
    if n == 1:
        return Interval(value, None, None)
    picks = _generator(seed, purpose).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    totals = picks @ below
    ratios = np.divide(picks @ above, totals, out=np.full(RESAMPLES, value), where=totals > 0)
    tail = _expanded_tail(_equal_items(below), confidence)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _equal_items(sizes: Values) -> float:
    """Return the number of equal items with the same information as these (Kish); zero sizes have none."""
    return float(sizes.sum()) ** 2 / float((sizes**2).sum())


def _expanded_tail(items: float, confidence: float) -> float:
    """Return the share of resamples beyond each end: below (1 - confidence)/2, and smaller for fewer items."""
    from scipy.special import stdtrit

    if items - 1 < 1e-9:  # one item holds everything: the ends are those of all resamples
        return 0.0
    return NormalDist().cdf(-sqrt(items / (items - 1)) * float(stdtrit(items - 1, 0.5 + confidence / 2)))


def _paired(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[Values, Values]:
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1 or above.size == 0:
        raise ValueError(f"an interval needs two equal, non-empty lists, not {above.size} and {below.size} values")
    return above, below


def paired_difference(
    after: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    seed: int,
    purpose: str,
    confidence: float = 0.95,
) -> Interval:
    """Return the difference of two ratios, each given as [numerators, denominators] over the same items in order.

    Pairing removes the items' difficulty from the interval. Raises ValueError unless both have the same items: equally
    many, and with the same denominators (bytes of each document; ones for shares).
    """
    (above_after, below_after), (above_before, below_before) = after, before
    if list(below_after) != list(below_before) or len(above_after) != len(above_before):
        raise ValueError("paired_difference needs the same items, with the same denominators, in both lists")
    differences = [a - b for a, b in zip(above_after, above_before, strict=True)]
    return bootstrap_ratio(differences, below_after, seed, purpose, confidence)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    key = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest())
    return np.random.Generator(np.random.PCG64([seed, key]))
