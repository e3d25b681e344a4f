"""The router's bias lives outside every optimizer and moves once a step; load is told beside chance's own."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from engine.model.balance import expected_maximum, load_floor
from engine.model.model import K2Model
from engine.optim.schedule import Schedule
from engine.training.language import language_modelling, make_optimizer, next_token_loss
from engine.training.loop import LoopSettings, train_loop
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from tests.engine.tiny import config
from tests.engine.training.run_tiny import Made

SETTINGS = OptimizerSettings(
    weight_decay=0.1, momentum=0.95, tau=100.0, adamw_lr_factor=1.0, newton_schulz_dtype="float32"
)
U = 1e-3


def ids_of(step):
    return torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(step))


def train(tmp_path, micro_batches, steps=1, rate=U):
    model = K2Model(config(), seed=2)
    train_loop(
        TrainState(model, make_optimizer(model, 0.01, SETTINGS)),
        Made(lambda step: {"ids": ids_of(step)}, 4),
        language_modelling,
        Schedule.warmed_up(0.01, 0, ("constant", steps, None)),
        LoopSettings(steps, 10, 1, "float32", micro_batches=micro_batches),
        tmp_path,
        "test",
        bias_rate_at=lambda step: rate,
    )
    return model


def biases(model):
    return [router.e_score_correction_bias.clone() for router in model.routers().values()]


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_the_bias_moves_once_a_step_by_the_load_of_all_micro_batches_in_every_layer(tmp_path, micro_batches):
    watched = K2Model(config(), seed=2)
    watched(ids_of(0)[:, :-1])
    expected = []
    for router in watched.routers().values():
        load = router.load_E.double()
        assert load.sum() == 4 * 16 * 2
        sign = torch.sign(load.mean() - load)
        expected.append((U * (sign - sign.mean())).float())
    actual = biases(train(tmp_path, micro_batches))
    assert len(actual) == 2
    for bias, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(bias, wanted, rtol=0, atol=1e-9)
        assert bias.abs().max() > 0


def test_without_a_rate_the_bias_keeps_its_bits_whatever_the_optimizer_does(tmp_path):
    model = train(tmp_path, 1, steps=3, rate=0.0)
    assert all(torch.equal(bias, torch.zeros(6)) for bias in biases(model))
    assert not torch.equal(model.routers()[1].weight, K2Model(config(), seed=2).routers()[1].weight)


def test_no_optimizer_knows_the_bias():
    model = K2Model(config())
    for router in model.routers().values():
        assert router.e_score_correction_bias.dtype == torch.float32
        assert not isinstance(router.e_score_correction_bias, torch.nn.Parameter)
    next_token_loss(model, ids_of(0)).backward()
    for router in model.routers().values():
        router.e_score_correction_bias.fill_(0.5)
    optimizer = make_optimizer(model, 0.01, SETTINGS)
    optimizer.step()
    assert not any("bias" in name for name in optimizer.state_dict())
    assert all(torch.equal(bias, torch.full((6,), 0.5)) for bias in biases(model))


def test_the_history_tells_load_beside_its_floor(tmp_path):
    import json

    train(tmp_path, 2, steps=2)
    for line in (tmp_path / "history.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["expert_load_floor"] == pytest.approx(load_floor(4 * 16, 6, 2))
        assert row["expert_load_max"] >= row["expert_load_mean"] >= 1


@dataclass
class Draws:
    tokens: int
    n_experts: int
    k: int

    def mean_of_max(self, times=200):
        """Each token takes the k smallest of E random numbers: k distinct experts by chance."""
        random = np.random.default_rng(0)
        ratios = []
        for _ in range(times):
            order = random.random((self.tokens, self.n_experts)).argpartition(self.k - 1, axis=1)[:, : self.k]
            load = np.bincount(order.ravel(), minlength=self.n_experts)
            ratios.append(load.max() / load.mean())
        return float(np.mean(ratios))


@pytest.mark.parametrize("draws", [Draws(400, 16, 4), Draws(1000, 64, 8), Draws(300, 8, 1)])
def test_the_floor_is_what_chance_gives(draws):
    assert load_floor(draws.tokens, draws.n_experts, draws.k) == pytest.approx(draws.mean_of_max(), rel=0.02)


def test_the_floor_at_its_ends():
    assert load_floor(1000, 8, 8) == 1.0
    assert load_floor(0, 8, 2) == 1.0
    assert load_floor(10**9, 64, 8) == pytest.approx(1.0, abs=1e-3)
    assert expected_maximum(1) == pytest.approx(0.0, abs=1e-6)
    assert expected_maximum(2) == pytest.approx(np.pi**-0.5, abs=1e-6)


def test_a_token_counts_once_though_its_forward_is_repeated_for_its_gradient():
    model = K2Model(config(), seed=2)
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moe = model.layers["1"].mlp
    checkpoint(moe, x, use_reentrant=False).sum().backward()
    assert int(moe.gate.load_E.sum()) == 3 * 5 * 2
    moe(x)
    assert int(moe.gate.load_E.sum()) == 2 * 3 * 5 * 2, "and the next forward counts again"
