"""Loss measures against plain cross-entropy, and the history's plots."""

import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.model.model import K2Model
from engine.text.shards import EvalWindows
from engine.training import readings
from engine.training.history import curve, mean_of, mishaps, read_history, write_history
from engine.training.language import loss_of, losses_by_domain, next_token_loss, token_nats
from tests.engine.tiny import config

WINDOWS = np.random.Generator(np.random.PCG64(0)).integers(0, 61, (7, 13))


@pytest.fixture(scope="module")
def model():
    return K2Model(config())


@torch.no_grad()
def test_measures_agree_with_cross_entropy_however_batched(model):
    ids = torch.from_numpy(WINDOWS)
    expected = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(next_token_loss(model, ids), expected)
    whole, parts = token_nats(model, WINDOWS), token_nats(model, WINDOWS, batch_tokens=30)
    torch.testing.assert_close(whole.mean(), expected)
    torch.testing.assert_close(whole, parts)
    assert model.training


def test_domains_add_up_to_the_whole(model):
    windows = EvalWindows(WINDOWS, np.full(7, 24), ("a", "a", "b", "a", "b", "b", "b"))
    losses = losses_by_domain(model, windows)
    assert set(losses) == {"", "a", "b"}
    assert losses[""].nats_per_token == pytest.approx(
        (3 * losses["a"].nats_per_token + 4 * losses["b"].nats_per_token) / 7
    )
    assert losses[""].bits_per_byte == pytest.approx(losses[""].nats_per_token / 2 / math.log(2))


def test_bits_per_byte_of_a_fair_coin_a_byte():
    assert loss_of(10 * math.log(2), 5, 10).bits_per_byte == pytest.approx(1.0)
    assert loss_of(10 * math.log(2), 5, 10).nats_per_token == pytest.approx(2 * math.log(2))


def test_a_history_directory_is_the_same_twice_and_made_anew(tmp_path):
    source = tmp_path / "rows.jsonl"
    rows = [
        {"step": i + 1, "loss": 5.0 - i, "lr": 0.1, "max_logit": 1.0, "max_logit_heads": [[1.0, 0.5], [0.2, 0.1]]}
        | {"expert_load_max": 1.5, "expert_load_mean": 1.2, **({"validation_loss": 4.0} if i == 2 else {})}
        for i in range(4)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stale.png").write_bytes(b"")
    for name in ("a", "b"):
        write_history(source, tmp_path / name, "Test", {"bigram": 3.0})
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["expert_load.png", "history.jsonl", "loss.png", "max_logit.png"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert read_history(tmp_path / "a" / "history.jsonl") == rows


def test_figures_that_some_rows_lack_are_neither_needed_nor_made_up():
    rows = [{"step": 1, "loss": 3.0, "spike": 0.0}, {"step": 2, "spike": 1.0, "skipped": 1.0, "nonfinite": 1.0}]
    rows.append({"step": 3, "loss": 5.0, "spike": 1.0})
    assert curve(rows, "loss") == ([1, 3], [3.0, 5.0])
    assert mean_of(rows, final="loss", other="none_has_it") == {"final": 4.0}
    assert mishaps(rows) == {"spikes": 2, "steps_skipped": 1}


def test_token_nats_hands_ids_to_the_models_device(monkeypatch):
    """No accelerator here: a model on the meta device sees where its ids are."""
    seen = []
    monkeypatch.setattr(readings, "autocast", lambda *_: nullcontext())

    class Elsewhere(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))

            self.device = self.weight.device

        def hidden(self, ids, valid_BT=None):
            seen.append(ids.device.type)
            return torch.zeros(*ids.shape, 1, device="meta")

        def lm_head(self, hidden):
            return torch.zeros(*hidden.shape[:-1], 61, device="meta")

    assert token_nats(Elsewhere(), np.zeros((2, 5), dtype=np.int64)).device.type == "meta"
    assert seen == ["meta"]
