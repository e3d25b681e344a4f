"""Quotas and the choice of documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UserError
from engine.text.mixture import quotas, select

DOMAINS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 10_000), st.floats(0.01, 10)), min_size=1)


@given(DOMAINS, st.integers(1, 50_000), st.floats(0.1, 5))
def test_quotas_keep_the_caps_and_the_total(domains: dict[str, tuple[int, float]], total: int, epochs: float) -> None:
    available = {name: tokens for name, (tokens, _) in domains.items()}
    weights = {name: weight for name, (_, weight) in domains.items()}
    quota = quotas(available, weights, total, epochs)
    assert sum(quota.values()) <= total
    assert all(quota[name] <= available[name] * epochs for name in domains)
    free = [name for name in domains if quota[name] < int(available[name] * epochs)]
    if free:  # then nothing was left over but roundings, and the free ones share by weight
        assert sum(quota.values()) >= total - len(domains)
        level = [quota[name] / weights[name] for name in free]
        assert all(abs(x - level[0]) <= 1 / min(weights.values()) + 1e-6 for x in level)


def test_an_unweighted_domain_is_left_out() -> None:
    assert quotas({"web": 10, "code": 10}, {"web": 1.0, "code": 0.0}, 8, 1.0) == {"web": 8, "code": 0}


def test_what_a_capped_domain_lacks_goes_to_the_others() -> None:
    assert quotas({"a": 10, "b": 1000, "c": 1000}, {"a": 0.5, "b": 0.25, "c": 0.25}, 400, 2.0) == {
        "a": 20,
        "b": 190,
        "c": 190,
    }


def test_unknown_domain_is_one_sentence() -> None:
    with pytest.raises(UserError, match="asks for domain 'poetry', which no training document has; there are web"):
        quotas({"web": 5}, {"web": 1.0, "poetry": 1.0}, 5, 1.0)


def test_forgotten_domain_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"'poetry', which tokenization\.weights does not name"):
        quotas({"web": 5, "poetry": 5}, {"web": 1.0}, 5, 1.0)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(1, 3000), st.integers(0, 5))
def test_selection_repeats_evenly_and_lands_near_the_quota(lengths: list[int], quota: int, seed: int) -> None:
    ids = [f"doc{i}" for i in range(len(lengths))]
    chosen = select(ids, lengths, quota, seed, "web")
    assert chosen == select(ids, lengths, quota, seed, "web")
    assert len(set(chosen)) == len(chosen)
    times = [sum(1 for _, i in chosen if i == document) for document in range(len(ids))]
    assert max(times) - min(times) <= 1
    assert [copy for copy, _ in chosen] == sorted(copy for copy, _ in chosen)
    assert abs(sum(lengths[i] for _, i in chosen) - quota) <= max(lengths)


def test_nothing_is_chosen_for_no_quota() -> None:
    assert select(["a"], [3], 0, 1, "web") == []


def test_order_depends_on_the_seed() -> None:
    ids = [str(i) for i in range(50)]
    assert select(ids, [1] * 50, 50, 1, "web") != select(ids, [1] * 50, 50, 2, "web")
