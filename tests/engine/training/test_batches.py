"""Micro-batches and ranks: however a batch is cut and dealt, a step sees the same tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.parallel.data import ALONE, Ranks
from engine.training.batches import own, pieces, require_even, share, tokens_of
from engine.training.examples import Encoded
from engine.training.padded import group_loss
from engine.training.sources import Examples
from tests.engine.training.run_tiny import Made
from tests.nodes import toy

CPU = torch.device("cpu")


def dealt(source, micro_batches, size, step=0):
    """The micro-batches of all ranks, in order."""
    parts = pieces(micro_batches, size)
    ranks = [Ranks(rank, size) for rank in range(size)]
    return [micro for r in ranks for micro in share(source.rows(step, r), parts, r, CPU)]


@settings(max_examples=200)
@given(micro_batches=st.integers(1, 9), size=st.integers(1, 9), per_piece=st.integers(1, 3))
def test_every_split_deals_the_same_rows_in_the_same_order(micro_batches, size, per_piece):
    parts = pieces(micro_batches, size)
    ids = torch.arange(parts * per_piece * 2).view(-1, 2)
    source = Made(lambda step: {"ids": ids}, len(ids))
    require_even(source, micro_batches, Ranks(0, size), "pretrain")
    micro = dealt(source, micro_batches, size)
    assert len(micro) == parts
    assert parts >= micro_batches
    assert {len(one["ids"]) for one in micro} == {per_piece}
    assert torch.equal(torch.cat([one["ids"] for one in micro]), ids)


@given(rows=st.integers(0, 40), size=st.integers(1, 9))
def test_each_row_is_one_ranks_own_and_no_rank_has_two_more_than_another(rows, size):
    shares = [own(rows, Ranks(rank, size)) for rank in range(size)]
    assert [row for share_ in shares for row in share_] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=200)
@given(rows=st.integers(0, 12), others=st.integers(0, 12), micro_batches=st.integers(1, 5))
def test_with_totals_any_number_of_rows_is_cut_into_each_once(rows, others, micro_batches):
    batch = {"a": torch.arange(rows), "b": torch.arange(others), "total": torch.tensor(float(rows))}
    micro = list(share(batch, micro_batches, ALONE, CPU))
    for name in ("a", "b"):
        assert torch.equal(torch.cat([one[name] for one in micro]), batch[name])
    assert sum(float(one["total"]) for one in micro) == pytest.approx(rows)


def test_rows_that_do_not_split_are_refused_with_the_parameters_name():
    uneven = Made(lambda step: {}, 8)
    with pytest.raises(UserError, match=r"8 rows does not .* 3 micro-batches \(1 asked for, 3 processes\).*pretrain\."):
        require_even(uneven, 1, Ranks(0, 3), "pretrain")
    require_even(Made(lambda step: {}, None), 1, Ranks(0, 3), "sft")


ROWS = {
    "chat": [
        ([5, 6, 7, 8], [False, False, True, True]),
        ([9, 10], [False, True]),
        ([3, 4, 5, 6, 7, 8], [False, True, True, True, True, True]),
    ],
    "trajectory": [([3, 4, 5, 6, 7, 8], [False, True, True, True, True, True])],
}


def test_masked_losses_average_to_the_whole_batchs_however_unequal_the_shares():
    """Some ranks have no row of a kind at all."""
    model = toy.model().eval()
    source = Examples(Encoded(ROWS, 0), {"chat": 3, "trajectory": 1}, 1, None)
    expected, totals = group_loss(model, source.rows(0, ALONE) | {}, lambda _: 1.0)
    for micro_batches, size in ((2, 1), (1, 2), (3, 2), (1, 5)):
        losses = [group_loss(model, micro, lambda _: 1.0) for micro in dealt(source, micro_batches, size)]
        torch.testing.assert_close(torch.stack([loss for loss, _ in losses]).mean(), expected)
        for name, value in totals.items():
            assert sum(float(figures[name]) for _, figures in losses) / len(losses) == pytest.approx(float(value))


def test_tokens_are_those_of_the_ids():
    batch = Examples(Encoded({"chat": [([1, 2, 3], [False, True, True])]}, 0), {"chat": 1}, 1, None).rows(0, ALONE)
    assert tokens_of(batch) == 3
    assert tokens_of({"ids": torch.zeros(4, 17, dtype=torch.int64)}) == 68
    assert tokens_of({}) == 0
