"""Rows of weights in a flat vector that is cut anywhere: each row has one owner, and each number one holder."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.parallel.flat import Flat, Tail

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


@given(shapes=SHAPES, ranks=st.integers(1, 6), spare=st.integers(0, 3))
def test_rows_are_dealt_out_once_and_their_numbers_come_together(shapes, ranks, spare):
    named = {str(number): shape for number, shape in enumerate(shapes)}
    numbers = sum(map(prod, shapes))
    flat = Flat(named, -(-numbers // ranks) + spare, ranks)
    places = []
    for name, shape in named.items():
        offsets = flat.ranges(name).offsets
        assert (offsets[0], offsets[-1], len(offsets)) == (0, shape[0], ranks + 1)
        assert list(offsets) == sorted(offsets)
        for rank in range(ranks):
            place = flat.place(name, rank)
            assert len(place) == len(flat.rows(name, rank)) * prod(shape[1:])
            assert not place or place.start // flat.size == rank, "a row is where it begins"
            places += place
    assert places == list(range(numbers))
    tails = list(flat.tails())
    for rank in range(ranks):
        own = {number for name in named for number in flat.place(name, rank)}
        held = set(range(rank * flat.size, min((rank + 1) * flat.size, numbers)))
        assert {n for tail in tails if tail.owner == rank for n in range(tail.start, tail.stop)} == own - held
        assert {n for tail in tails if tail.holder == rank for n in range(tail.start, tail.stop)} == held - own


@pytest.mark.parametrize(
    ("shapes", "size", "ranks", "tails"),
    [
        ({"a": (4, 2), "b": (8,)}, 8, 2, []),  # cut between two weights
        ({"a": (16,)}, 8, 2, []),  # a vector's rows are numbers
        ({"a": (2, 5), "b": (6,)}, 8, 2, [Tail(1, 0, 8, 10)]),
        ({"a": (1, 3, 4)}, 4, 3, [Tail(1, 0, 4, 8), Tail(2, 0, 8, 12)]),  # one row in all partitions
    ],
)
def test_the_ends_of_rows_that_cuts_divide(shapes, size, ranks, tails):
    assert list(Flat(shapes, size, ranks).tails()) == tails
