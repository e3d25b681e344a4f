"""The balance benchmark at a fraction of its size: that it trains, counts every token and sets the bias beside none."""

import torch

from benchmarks.muonclip import balance
from engine.optim.schedule import Schedule


def test_rows_set_the_bias_beside_none_and_chance(monkeypatch):
    monkeypatch.setattr(balance, "SCHEDULE", Schedule.warmed_up(0.01, 2, ("constant", 6, None)))
    monkeypatch.setattr(balance, "HELD_OUT", 1024)
    monkeypatch.setattr(balance, "BATCH", 2)
    load, excess = balance.rows(5)
    assert load.value == excess.value + 1 >= 1
    assert 1 < load.baseline_value < 1.5
    assert excess.baseline_value > 0
    assert load.ok == (load.value <= 1.25)
    assert excess.ok == (excess.value <= excess.baseline_value / 2)


def test_the_load_counts_each_token_once_in_each_layer():
    model = balance.K2Model(balance.CONFIG, 0).eval()
    for router in model.routers().values():  # one expert in every choice of every token, the others by turns
        router.e_score_correction_bias[0] = 10.0
    windows = torch.randint(0, balance.VOCABULARY, (3, balance.LENGTH + 1), generator=torch.Generator().manual_seed(0))
    assert balance.load_of(model, windows) == balance.EXPERTS / balance.K
