"""N-gram baselines over token ids: interpolated modified Kneser-Ney of any order, vectorised in NumPy.

Chen & Goodman (1998), section 3, with three discounts an order. Order 2 is the bigram that pre-training must beat; 3
and 5 stand beside it. Counts are exact: a k-gram is known by its rank among the distinct k-grams, and is looked up by
(rank of its first k-1 tokens, last token), so no order and no vocabulary is hashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

_FALLBACK: Final = (0.5, 1.0, 1.5)
"""Discounts where the counts of counts allow no estimate (tiny or repeated text); KenLM's choice."""


class Score(NamedTuple):
    """The loss over the targets of some windows, in nats."""

    nats: float
    tokens: int

    @property
    def nats_per_token(self) -> float:
        """The mean loss per target."""
        return self.nats / self.tokens


@dataclass(frozen=True)
class _Level:
    """All distinct k-grams of one order, sorted by key = (rank of the first k-1 tokens) · V + last token."""

    keys: Ids
    discounted: Floats  # by k-gram: max(count - D(count), 0) / total of its context
    backoff: Floats  # by context rank: the mass left for the lower order
    seen: NDArray[np.bool_]  # by context rank: whether the context has any count at this order


def _discounts(counts: Ids) -> Floats:
    """Return (4,) amounts to take off a count of 0, 1, 2, 3 or more, estimated from the counts of counts."""
    n1, n2, n3, n4 = (float(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        d = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < value < limit for value, limit in zip(d, (1, 2, 3), strict=True)):
            return np.array([0.0, *d])
    return np.array([0.0, *_FALLBACK])


def _level(keys: Ids, counts: Ids, n_contexts: int, vocab_size: int) -> _Level:
    contexts = keys // vocab_size
    taken = _discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(contexts, weights=counts, minlength=n_contexts)
    freed = np.bincount(contexts, weights=taken, minlength=n_contexts)
    seen = total > 0
    safe = np.where(seen, total, 1.0)
    return _Level(keys, (counts - taken) / safe[contexts], freed / safe, seen)


def _flatten(tokens: Sequence[Ids] | Ids) -> tuple[Ids, Ids]:
    """Return the rows of tokens end to end, and for each token how many of its row remain, itself included."""
    rows = [np.asarray(row, dtype=np.int64) for row in tokens]
    left = [np.arange(len(row), 0, -1, dtype=np.int64) for row in rows]
    return np.concatenate(rows), np.concatenate(left)


class KneserNey:
    """P(token | up to order-1 tokens before it), which sums to one over the vocabulary for every context."""

    def __init__(self, levels: Sequence[_Level], vocab_size: int) -> None:
        self.order, self.vocab_size = len(levels), vocab_size
        self._levels = tuple(levels)

    @classmethod
    def fit(cls, tokens: Sequence[Ids] | Ids, order: int, vocab_size: int) -> "KneserNey":
        """Count `tokens`: a list of 1-D arrays, or the rows of a matrix. No n-gram crosses from one to the next.

        Costs `order` sorts of the tokens. Highest-order counts are of occurrences, lower ones of distinct left
        neighbours.
        """
        ids, left = _flatten(tokens)
        starts = np.flatnonzero(left >= 1)
        ranks = np.zeros(len(ids), dtype=np.int64)  # at each start: rank of the (k-1)-gram there
        levels: list[_Level] = []
        keys: list[Ids] = []
        widths = [1]
        counts: list[Ids] = []
        for k in range(1, order + 1):
            starts = starts[left[starts] >= k]
            distinct, inverse, occurrences = np.unique(
                ranks[starts] * vocab_size + ids[starts + k - 1], return_inverse=True, return_counts=True
            )
            if k > 1:
                # One left neighbour for each distinct k-gram: its suffix's rank is still in `ranks`, one position on.
                suffix = np.empty(len(distinct), dtype=np.int64)
                suffix[inverse] = ranks[starts + 1]
                counts.append(np.bincount(suffix, minlength=widths[-1]))
            ranks = np.full(len(ids), -1, dtype=np.int64)
            ranks[starts] = inverse
            keys.append(distinct)
            widths.append(len(distinct))
        counts.append(occurrences)
        levels = [_level(keys[k], counts[k], widths[k], vocab_size) for k in range(order)]
        return cls(levels, vocab_size)

    def probabilities(self, windows: Ids) -> Floats:
        """Return (N, T) the probability of each target `windows[:, 1:]` given the tokens before it in its row (N, T+1).

        Near a row's start the context is what the row has, as for a model that sees the same window.
        """
        windows = np.asarray(windows, dtype=np.int64)
        n, width = windows.shape
        p = np.full((n, width - 1), 1.0 / self.vocab_size)
        ranks = np.zeros((n, width + 1), dtype=np.int64)  # of the (k-1)-gram that starts at each place, -1 unseen
        for k, level in enumerate(self._levels, start=1):
            contexts = ranks[:, : width - k + 1]
            grams = self._find(level, contexts, windows[:, k - 1 :])
            # The k-gram that starts at s ends in target s+k-1; for k = 1, position 0 is not a target.
            first = 1 if k == 1 else 0
            context, gram = contexts[:, first:], grams[:, first:]
            known = (context >= 0) & level.seen[context]
            hit = np.where(gram >= 0, level.discounted[gram], 0.0)
            lower = p[:, k - 2 + first :]
            p[:, k - 2 + first :] = np.where(known, hit + level.backoff[context] * lower, lower)
            ranks = grams
        return p

    def _find(self, level: _Level, contexts: Ids, last: Ids) -> Ids:
        keys = contexts * self.vocab_size + last
        place = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
        return np.where((contexts >= 0) & (level.keys[place] == keys), place, -1)

    def score(self, windows: Ids) -> Score:
        """Return the total nats over the targets of `windows` (N, T+1), and their number."""
        p = self.probabilities(windows)
        return Score(float(-np.log(p).sum()), p.size)


def baselines(tokens: Sequence[Ids] | Ids, windows: Ids, orders: Sequence[int], vocab_size: int) -> dict[int, Score]:
    """Return the score of each order, counted on `tokens` and evaluated on `windows` (N, T+1)."""
    return {order: KneserNey.fit(tokens, order, vocab_size).score(windows) for order in orders}
