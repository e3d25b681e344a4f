"""A training that goes on under other layouts, each on its own number of ranks, ends where one process would."""

from pathlib import Path

import pytest
import torch

from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.optim.schedule import Phase, Schedule
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.mesh import laid_out, mesh
from engine.training.history import read_history
from engine.training.language import language_modelling
from engine.training.loop import LoopSettings, train_loop
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config
from tests.engine.training.run_tiny import Made

pytestmark = pytest.mark.slow

LEGS = [(Layout(ep=2), 2, 2), (Layout(pp=2, ep=2), 4, 4), (Layout(ep=2), 4, 5), (WHOLE, 1, 6)]
"""Layouts with their numbers of ranks, and the step up to which each of them trains."""
STEPS = LEGS[-1][2]
CONSTANT = Schedule(start=0.02, phases=(Phase(shape="constant", length=STEPS),))
Weights = dict[str, torch.Tensor]


def rows_of(step: int) -> Weights:
    return {"ids": torch.randint(0, 61, (8, 13), generator=torch.Generator().manual_seed(step))}


def trained(rank: int, work: Path, layout: Layout, until: int) -> tuple[Weights, Path]:
    """Train in fp64 up to a step from whatever is in `work`: clipping, a gradient norm, moving biases; what is held."""
    with laid_out(layout):
        model = K2Model(config(), part=mesh().part(config())).double()
        history = train_loop(
            TrainState(model, MuonClip(model, 0.02, tau=0.5, ns_dtype=torch.float64)),
            Made(rows_of, 8),
            language_modelling,
            CONSTANT,
            LoopSettings(until, until, 1, "float32", grad_clip=0.5, heads_every=1, micro_batches=8),
            work,
            "tiny",
            bias_rate_at=lambda step: 0.01,
        )
        return model.state_dict(), history


def history_of(rank: int, work: Path, layout: Layout, until: int) -> Path:
    return trained(rank, work, layout, until)[1]


def test_a_training_goes_on_under_other_layouts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected, straight = trained(0, tmp_path / "straight", WHOLE, STEPS)
    for layout, ranks, until in LEGS[:-1]:
        together(ranks, history_of, tmp_path / "relaid", layout, until)
    capfd.readouterr()
    weights, history = trained(0, tmp_path / "relaid", *LEGS[-1][::2])
    assert "begun with 4 processes (ep 2) and resumed at step 5 with 1:" in capfd.readouterr().err
    for name, tensor in expected.items():
        assert float((weights[name] - tensor).abs().max()) <= 1e-10, name
    for row, straight_row in zip(read_history(history), read_history(straight), strict=True):
        heads, straight_heads = (torch.tensor(of.pop("max_logit_heads")) for of in (row, straight_row))
        assert row == pytest.approx(straight_row, rel=1e-9)
        torch.testing.assert_close(heads, straight_heads, rtol=0, atol=1e-3)
