"""Kneser-Ney: against a tiny pure-Python one, and as a distribution."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.ngram import KneserNey, baselines

V = 5


class TinyKneserNey:
    """Interpolated modified Kneser-Ney written for reading: dictionaries, recursion, no arrays."""

    def __init__(self, rows: list[list[int]], order: int) -> None:
        grams = {k: [tuple(r[i : i + k]) for r in rows for i in range(len(r) - k + 1)] for k in range(1, order + 1)}
        self.counts: dict[int, Counter[tuple[int, ...]]] = {order: Counter(grams[order])}
        for k in range(1, order):
            self.counts[k] = Counter(gram[1:] for gram in set(grams[k + 1]))
        self.discounts = {k: self._estimate(k) for k in self.counts}

    def _estimate(self, k: int) -> tuple[float, float, float]:
        of = Counter(self.counts[k].values())
        if all(of[i] for i in (1, 2, 3, 4)):
            y = of[1] / (of[1] + 2 * of[2])
            d = tuple(i - (i + 1) * y * of[i + 1] / of[i] for i in (1, 2, 3))
            if all(0 < x < i for i, x in enumerate(d, start=1)):
                return d
        return (0.5, 1.0, 1.5)

    def p(self, context: tuple[int, ...], token: int) -> float:
        return self._p(len(context) + 1, context, token)

    def _p(self, k: int, context: tuple[int, ...], token: int) -> float:
        if k == 0:
            return 1 / V
        lower = self._p(k - 1, context[1:], token) if k > 1 else 1 / V
        row = {g[-1]: c for g, c in self.counts[k].items() if g[:-1] == context}
        total = sum(row.values())
        if not total:
            return lower
        taken = {t: self.discounts[k][min(c, 3) - 1] for t, c in row.items()}
        own = max(row[token] - taken[token], 0) if token in row else 0
        return own / total + sum(taken.values()) / total * lower


ROWS = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=40), min_size=1, max_size=4)
WINDOW = st.lists(st.integers(0, V - 1), min_size=2, max_size=8)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@settings(max_examples=40)
@given(rows=ROWS.filter(lambda rows: max(map(len, rows)) >= 5), window=WINDOW)
def test_equal_to_the_tiny_one(order: int, rows: list[list[int]], window: list[int]) -> None:
    tiny = TinyKneserNey(rows, order)
    expected = [tiny.p(tuple(window[max(0, j - order + 1) : j]), window[j]) for j in range(1, len(window))]
    model = KneserNey.fit([np.array(r) for r in rows], order, V)
    assert model.probabilities(np.array([window]))[0] == pytest.approx(expected, rel=1e-12)


def _zipf(n: int, vocab_size: int, seed: int) -> np.ndarray:
    """Tokens with enough structure that the counts of counts give discounts: each depends on the one before."""
    rng = np.random.default_rng(seed)
    steps = np.minimum(rng.zipf(1.3, size=n), vocab_size - 1)
    return np.cumsum(steps) % vocab_size


@pytest.mark.parametrize("order", [2, 3, 5])
@settings(max_examples=15)
@given(seed=st.integers(0, 100))
def test_probabilities_sum_to_one(order: int, seed: int) -> None:
    vocab_size = 40
    tokens = _zipf(3000, vocab_size, seed)
    model = KneserNey.fit([tokens], order, vocab_size)
    rng = np.random.default_rng(seed)
    contexts = [tokens[seed : seed + order - 1], rng.integers(0, vocab_size, order - 1)]
    for context in contexts:
        windows = np.array([[*context, token] for token in range(vocab_size)])
        assert model.probabilities(windows)[:, -1].sum() == pytest.approx(1.0, abs=1e-9)


def test_higher_orders_gain_on_text_with_longer_structure() -> None:
    tokens = np.concatenate([np.tile([1, 2, 3, 1, 4, 3, 2], 300), np.arange(5)])
    windows = np.tile([1, 2, 3, 1, 4, 3, 2], 4)[None, :]
    scores = baselines([tokens], windows, (1, 2, 3), V)
    nats = [scores[order].nats_per_token for order in (1, 2, 3)]
    assert nats == sorted(nats, reverse=True)
    assert scores[2].tokens == 27
    assert scores[2].nats == pytest.approx(27 * nats[1])


def test_no_count_crosses_from_one_row_to_the_next() -> None:
    rows = [np.array([0, 1, 0, 1]), np.array([2, 3, 2, 3])]
    apart = KneserNey.fit(rows, 2, V).probabilities(np.array([[1, 2]]))
    joined = KneserNey.fit([np.concatenate(rows)], 2, V).probabilities(np.array([[1, 2]]))
    assert apart < joined


def test_a_matrix_is_its_rows() -> None:
    matrix = _zipf(400, 20, 1).reshape(20, 20)
    windows = _zipf(60, 20, 2).reshape(6, 10)
    one = KneserNey.fit(matrix, 3, 20).probabilities(windows)
    assert (one == KneserNey.fit(list(matrix), 3, 20).probabilities(windows)).all()


def test_large_vocabularies_and_orders_need_no_hash() -> None:
    tokens = _zipf(2000, 163_840, 3) * 7919 % 163_840
    model = KneserNey.fit([tokens], 7, 163_840)
    assert model.probabilities(tokens[None, :]).min() > 0
