"""Decide how many tokens of each domain the training stream takes, and which documents provide them."""

from collections.abc import Mapping, Sequence

from engine.errors import UserError
from engine.text.permutation import key


def quotas(available: Mapping[str, int], weights: Mapping[str, float], total: int, max_epochs: float) -> dict[str, int]:
    """Return the tokens to take by domain: `total` split by `weights`, at most `max_epochs` times what a domain has.

    What a capped domain cannot give is split among the others by weight; if all are capped, the sum is below `total`.
    Raises UserError if a weighted domain has no tokens, or if a domain that has tokens is given no weight.
    """
    weighted = [name for name in weights if weights[name] > 0]
    for name in weighted:
        if not available.get(name):
            known = ", ".join(sorted(d for d in available if available[d]))
            raise UserError(
                f"tokenization.weights asks for domain {name!r}, which no training document has; "
                f"there are {known}: correct the name or set its weight to 0."
            )
    for name in sorted(available):
        if available[name] and name not in weights:
            raise UserError(
                f"documents have domain {name!r}, which tokenization.weights does not name: add it (0 leaves it out)."
            )
    quota = dict.fromkeys(weights, 0)
    open_, left = weighted, total
    while open_:
        mass = sum(weights[name] for name in open_)
        share = {name: left * weights[name] / mass for name in open_}
        capped = [name for name in open_ if share[name] > available[name] * max_epochs]
        if not capped:
            return quota | {name: int(share[name]) for name in open_}
        for name in capped:
            quota[name] = int(available[name] * max_epochs)
            left -= quota[name]
        open_ = [name for name in open_ if name not in capped]
    return quota


def select(ids: Sequence[str], lengths: Sequence[int], quota: int, seed: int, domain: str) -> list[tuple[int, int]]:
    """Return (copy, index) of the documents that fill `quota` tokens, in the order in which they are written.

    First come whole passes over the domain, each in its own order, then as many documents of one more pass as bring
    the sum nearest to the quota. A document is never cut. The first pass always gives at least one document.
    """
    available = sum(lengths)
    chosen: list[tuple[int, int]] = []
    left, copy = quota, 0
    while left > 0 and available > 0:
        order = sorted(range(len(ids)), key=lambda i: (key(seed, "order", domain, copy, ids[i]), ids[i], i))
        for i in order:
            if chosen and left < lengths[i] / 2:
                return chosen
            chosen.append((copy, i))
            left -= lengths[i]
        copy += 1
    return chosen
