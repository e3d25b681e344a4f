"""The tests of the claims protocol on paired differences: one-sided t, TOST, Holm.

Each function takes one number for each seed: the difference (or contrast) of that seed's runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its t interval and the seeds' standard deviation."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return mean and two-sided t interval; with one value the interval is the whole line.

    Raises ValueError on no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one value")
    mean = fmean(values)
    if n == 1:
        return Estimate(mean, -inf, inf, 0.0, 1)
    from scipy.special import stdtrit

    sd = stdev(values)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * sd / sqrt(n)
    return Estimate(mean, mean - half, mean + half, sd, n)


def p_below(values: Sequence[float], bound: float) -> float:
    """Return p of a one-sided t test against "the mean is at least `bound`"; 1 for fewer than two finite values.

    Values that do not vary at all decide for certain: 0 below the bound, 1 otherwise.
    """
    if len(values) < 2 or not all(map(isfinite, values)):
        return 1.0
    distance, sd = fmean(values) - bound, stdev(values)
    if sd == 0:
        return 0.0 if distance < 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(len(values) - 1, distance / (sd / sqrt(len(values)))))


def p_above(values: Sequence[float], bound: float) -> float:
    """Return p of a one-sided t test against "the mean is at most `bound`"."""
    return p_below([-value for value in values], -bound)


def p_within(values: Sequence[float], margin: float) -> float:
    """TOST: against "the mean is `margin` or more away from 0". Below 0.05 exactly if the 90 % interval lies inside."""
    return max(p_below(values, margin), p_above(values, -margin))


def p_outside(values: Sequence[float], margin: float) -> float:
    """Return p against "the mean is within `margin` of 0"; two sides, hence Bonferroni's factor."""
    return min(1.0, 2 * min(p_above(values, margin), p_below(values, -margin)))


def holm(p: Mapping[str, float], family: int | None = None) -> dict[str, float]:
    """Return Holm's adjusted p values; `family` also counts tests whose p is not known yet, which count as 1.

    An adjusted value never rises when more of the family becomes known. Raises ValueError if `family` is too small.
    """
    size = len(p) if family is None else family
    if size < len(p):
        raise ValueError(f"a family of {size} cannot hold {len(p)} tests")
    adjusted: dict[str, float] = {}
    floor = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        floor = max(floor, min(1.0, (size - rank) * p[name]))
        adjusted[name] = floor
    return adjusted
