"""The dense baseline has the sparse model's active weights; where curves cross is interpolated, never made up."""

import math

import pytest
import torch

from benchmarks.dense.gpt import DenseGPT, active_matmul_weights
from benchmarks.dense.plan import best_rate, crossing, summarise
from benchmarks.dense.train import schedule
from engine.errors import UserError
from tests.engine.tiny import config


def test_the_baseline_holds_as_many_matmul_weights_as_a_token_passes():
    c = config()
    model = DenseGPT(c, 0)
    held = sum(p.numel() for p in model.layers.parameters() if p.ndim > 1)
    assert abs(held - active_matmul_weights(c)) <= 1.5 * c.num_hidden_layers * c.hidden_size
    assert model(torch.arange(10)[None]).shape == (1, 10, c.vocab_size)


def test_the_baseline_is_causal():
    model = DenseGPT(config(), 0)
    ids = torch.arange(20)[None] % 61
    other = ids.clone()
    other[0, 12] = 60
    torch.testing.assert_close(model(ids)[:, :12], model(other)[:, :12])
    assert not torch.allclose(model(ids)[:, 12:], model(other)[:, 12:])


def test_a_crossing_lies_between_its_points_in_the_logarithm_of_the_cost():
    points = [(100.0, 3.0), (400.0, 2.0)]
    assert crossing(points, 2.5) == pytest.approx(200.0)
    assert crossing(points, 2.0) == pytest.approx(400.0)
    assert crossing(points, 3.5) == 100.0
    assert crossing(points, 1.9) == math.inf


def test_a_model_that_never_gets_there_misses_both_targets():
    runs = []
    for seed in (1, 2, 3, 4, 5):
        runs.append({"model": "dense", "seed": seed, "tokens": 100, "cpu_seconds": 10.0, "bits_per_byte": 1.0})
        sparse = {"model": "k2", "seed": seed, "cpu_seconds": 9.0, "bits_per_byte": 1.1}
        runs += [{**sparse, "tokens": tokens} for tokens in (50, 70, 85)]
    report = summarise(runs, [], 3.0)
    assert [row.ok for row in report.rows] == [False, False]
    for run in runs:
        if run["model"] == "k2" and run["tokens"] == 70:
            run["bits_per_byte"] = 1.0
    assert [row.value for row in summarise(runs, [], 3.0).rows] == [pytest.approx(0.7), pytest.approx(0.9)]


def test_a_best_rate_at_the_edge_asks_for_a_wider_sweep():
    def swept(*losses):
        return [{"model": "k2", "rate": r, "nats_per_token": x} for r, x in zip((0.005, 0.01, 0.02, 0.04), losses)]

    assert best_rate(swept(3, 2, 1, 2)) == 0.02
    with pytest.raises(UserError, match="widen RATES"):
        best_rate(swept(3, 2, 2, 1))


def test_the_schedule_has_the_requested_steps():
    assert [schedule(steps, 0.01).total for steps in (7, 100, 1234)] == [7, 100, 1234]
