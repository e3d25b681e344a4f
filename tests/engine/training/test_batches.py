"""Micro-batches and ranks: however a batch is cut and dealt, a step sees the same tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.parallel.data import Ranks
from engine.training.batches import pieces, share, tokens_of
from engine.training.padded import group_loss, pack_groups, pad
from tests.nodes import toy

CPU = torch.device("cpu")


def dealt(batch, micro_batches, size):
    """The micro-batches of all ranks, in order."""
    return [micro for r in range(size) for micro in share(batch, micro_batches, Ranks(r, size), CPU, "pretrain")]


@settings(max_examples=200)
@given(micro_batches=st.integers(1, 9), size=st.integers(1, 9), per_piece=st.integers(1, 3))
def test_every_split_deals_the_same_rows_in_the_same_order(micro_batches, size, per_piece):
    parts = pieces(micro_batches, size)
    ids = torch.arange(parts * per_piece * 2).view(-1, 2)
    micro = dealt({"ids": ids}, micro_batches, size)
    assert len(micro) == parts
    assert parts >= micro_batches
    assert {len(one["ids"]) for one in micro} == {per_piece}
    assert torch.equal(torch.cat([one["ids"] for one in micro]), ids)


@settings(max_examples=200)
@given(rows=st.integers(1, 12), others=st.integers(0, 12), micro_batches=st.integers(1, 5), size=st.integers(1, 5))
def test_with_totals_any_number_of_rows_is_dealt_once(rows, others, micro_batches, size):
    batch = {"a": torch.arange(rows), "b": torch.arange(others), "total": torch.tensor(float(rows))}
    micro = dealt(batch, micro_batches, size)
    for name in ("a", "b"):
        assert torch.equal(torch.cat([one[name] for one in micro]), batch[name])
    assert sum(float(one["total"]) for one in micro) == pytest.approx(rows)


def test_rows_that_do_not_split_are_refused_with_the_parameters_name():
    with pytest.raises(UserError, match=r"8 rows \(ids\) .* 3 micro-batches \(1 asked for, 3 processes\).*pretrain\."):
        dealt({"ids": torch.zeros(8, 5)}, 1, 3)
    with pytest.raises(ValueError, match="mapping"):
        dealt([1, 2], 1, 2)
    assert dealt([1, 2], 1, 1) == [[1, 2]]


def test_masked_losses_average_to_the_whole_batchs_however_unequal_the_shares():
    model = toy.model().eval()
    rows = [([5, 6, 7, 8], [0, 0, 1, 1]), ([9, 10], [0, 1]), ([3, 4, 5, 6, 7, 8], [0, 1, 1, 1, 1, 1])]
    whole = pack_groups({"chat": pad(rows), "trajectory": pad(rows[2:])})
    expected, totals = group_loss(model, whole, lambda _: 1.0)
    for micro_batches, size in ((2, 1), (1, 2), (3, 2), (1, 5)):
        losses = [group_loss(model, micro, lambda _: 1.0) for micro in dealt(whole, micro_batches, size)]
        torch.testing.assert_close(torch.stack([loss for loss, _ in losses]).mean(), expected)
        for name, value in totals.items():
            assert sum(float(figures[name]) for _, figures in losses) / len(losses) == pytest.approx(float(value))


def test_tokens_are_those_of_the_ids():
    batch = pack_groups({"chat": pad([([1, 2, 3], [0, 1, 1])]), "natural": pad([([1, 2], [0, 1])])})
    assert tokens_of(batch) == 5
    assert tokens_of({"ids": torch.zeros(4, 17, dtype=torch.int64)}) == 68
    assert tokens_of({}) == tokens_of(None) == 0
