"""The learning rate over training: warm-up, stable, cosine decay, anneal (WSD; K2 recipe, k2-facts section 3)."""

import math


def wsd(
    step: int, *, peak: float, warmup: int, stable: int, decay: int, anneal: int, decayed: float, final: float
) -> float:
    """Learning rate of the 0-based `step`; the four phases last the given numbers of steps.

    Warm-up rises linearly and reaches `peak` at its last step; decay is a cosine from `peak` to `decayed`; the
    anneal goes linearly from `decayed` to `final`, reached at its last step. After that the rate stays `final`.
    Paper: 2e-4 → 2e-5 → 7e-6; it does not state the shapes of warm-up and anneal.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    step -= warmup
    if step < stable:
        return peak
    step -= stable
    if step < decay:
        return decayed + (peak - decayed) * 0.5 * (1 + math.cos(math.pi * (step + 1) / decay))
    step -= decay
    if step < anneal:
        return decayed + (final - decayed) * (step + 1) / anneal
    return final if anneal else (decayed if decay else peak)
