"""The rows that cuts of a flat vector divide: sent to their owners, and back to where the numbers are held."""

from math import prod

import pytest
import torch

from engine.optim.whole_rows import WholeRows
from engine.parallel.flat import Flat
from tests.engine.parallel.ranks import together

pytestmark = pytest.mark.slow

SHAPES = {"a": (3, 5), "b": (7,), "c": (1, 4, 6), "d": (2, 2), "e": (9, 1)}


def exchanged(rank, ranks):
    """A rank's rows of a vector that counts, by weight; and whether its partition comes out as it was."""
    numbers = sum(map(prod, SHAPES.values()))
    size = -(-numbers // ranks)
    whole = torch.zeros(size * ranks)
    whole[:numbers] = torch.arange(1, numbers + 1)
    part = whole[rank * size : (rank + 1) * size]
    rows = WholeRows(Flat(SHAPES, size, ranks))
    own = rows.taken_from(part)
    again = rows.put_together(own, torch.empty(size))
    return {name: tensor.tolist() for name, tensor in own.items()}, torch.equal(again, part)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_rows_come_whole_to_one_rank_and_their_ends_go_back(ranks):
    """Of four ranks the stack's one row of 24 numbers is in three partitions."""
    replies = together(ranks, exchanged, ranks)
    assert all(same for _, same in replies)
    first = 1
    for name, shape in SHAPES.items():
        whole = torch.arange(first, first + prod(shape)).view(shape).tolist()
        assert [row for rows, _ in replies for row in rows.get(name, [])] == whole
        first += prod(shape)


def test_one_process_has_all():
    rows, same = exchanged(0, 1)
    assert same
    assert {name: torch.tensor(of).shape for name, of in rows.items()} == SHAPES
