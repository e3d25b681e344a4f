"""Padded batches: what is counted, and that padding and grouping change nothing."""

import pytest
import torch

from engine.training.padded import (
    group_loss,
    group_of,
    kinds_of,
    mean_nll,
    pack_group,
    pad,
    response_logprobs,
    token_logprobs,
)
from tests.engine.tiny import recorded
from tests.nodes import toy

ROWS = [([5, 6, 7, 8], [0, 0, 1, 1]), ([9, 10], [0, 1]), ([3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 0, 1])]


def test_counted_tokens_are_exactly_the_masked_ones():
    batch = pad(ROWS)
    assert batch.ids_BT.shape == (3, 6)
    assert batch.count == 5
    assert batch.ids_BT[batch.counted_BT].tolist() == [7, 8, 10, 6, 8]


def test_a_rows_first_token_is_never_predicted():
    assert pad([([4, 5], [1, 1])]).count == 1


def test_logprobs_equal_the_full_softmax_and_ignore_padding():
    model = toy.model().eval()
    together = response_logprobs(model, pad(ROWS), temperature=0.7)
    for row, (ids, mask) in enumerate(ROWS):
        logprobs = (model(torch.tensor([ids]))[0] / 0.7).log_softmax(-1)
        alone = sum(float(logprobs[t - 1, ids[t]]) for t in range(1, len(ids)) if mask[t])
        assert float(together[row]) == pytest.approx(alone, abs=1e-5)


def test_gradient_reaches_counted_positions_only():
    """Moving a token after the last counted one cannot change the loss."""
    model = toy.model().eval()
    a, b = pad([([5, 6, 7, 8], [0, 1, 0, 0])]), pad([([5, 6, 99, 98], [0, 1, 0, 0])])
    torch.testing.assert_close(mean_nll(model, a), mean_nll(model, b))


def packed(groups):
    parts = [pack_group(kind, group, group.count) for kind, group in groups.items()]
    return {name: tensor for part in parts for name, tensor in part.items()}


def test_group_loss_weighs_the_kinds_means():
    model = toy.model().eval()
    groups = {"chat": pad(ROWS[:2]), "trajectory": pad(ROWS[2:])}
    batch = packed(groups)
    assert kinds_of(batch) == ["chat", "trajectory"]
    loss, figures = group_loss(model, batch, {"chat": 3.0, "trajectory": 1.0}.__getitem__)
    by_hand = (3 * mean_nll(model, groups["chat"]) + mean_nll(model, groups["trajectory"])) / 4
    torch.testing.assert_close(loss, by_hand)
    assert figures["loss_chat"] == mean_nll(model, groups["chat"])


@pytest.mark.parametrize("huge", [1.0, 1000.0])
def test_padding_changes_neither_the_largest_logits_nor_the_loads(huge):
    model = toy.model().train()
    model.embed_tokens.weight.data[0] *= huge  # the padding's token
    mean_nll(model, pad(ROWS))
    together = recorded(model)
    for row in ROWS:
        mean_nll(model, pad([row]))
    alone = recorded(model)
    torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(together[1], alone[1])
    assert int(alone[1].sum()) == 2 * sum(len(ids) - 1 for ids, _ in ROWS)


def test_a_batch_of_groups_keeps_its_masks():
    group = pad(ROWS)
    back = group_of(packed({"chat": group}), "chat")
    assert all(torch.equal(a, b) for a, b in zip(vars(back).values(), vars(group).values(), strict=True))


def test_rows_are_named_in_order():
    _, rows = token_logprobs(toy.model().eval(), pad(ROWS))
    assert rows.tolist() == [0, 0, 1, 2, 2]
