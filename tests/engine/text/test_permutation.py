"""The computed permutation is one, for every size, and does not change between versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.permutation import key, permute


@given(st.integers(1, 600), st.integers(0, 2**64 - 1))
def test_every_position_goes_to_a_place_of_its_own(n: int, root: int) -> None:
    assert sorted(permute(np.arange(n), n, root).tolist()) == list(range(n))


@given(st.integers(1, 2**40), st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.integers(0, 99))
def test_a_position_does_not_depend_on_the_others_in_the_call(n: int, positions: list[int], root: int) -> None:
    positions = [p % n for p in positions]
    together = permute(np.array(positions), n, root).tolist()
    assert together == [int(permute(np.array([p]), n, root)[0]) for p in positions]
    assert all(0 <= p < n for p in together)


def test_golden_values() -> None:
    assert key(1, "windows", 0) == 4526251382885495100
    assert permute(np.arange(10), 10, 7).tolist() == [3, 2, 5, 1, 4, 8, 7, 0, 9, 6]


@pytest.mark.parametrize("n", [64, 1000])
def test_neighbours_are_scattered(n: int) -> None:
    places = np.concatenate([permute(np.arange(n), n, root) for root in range(50)]).reshape(50, n)
    # Rank correlation of place and position: 0 on average, with deviation 1/sqrt(50 n).
    assert abs(np.mean([np.corrcoef(np.arange(n), row)[0, 1] for row in places])) < 4 / np.sqrt(50 * n)
    fixed = (places == np.arange(n)).sum() / 50
    assert 0.3 < fixed < 2.5  # a random permutation has one fixed point on average
    assert len(np.unique(places[:, 0])) > 20
