"""Tiny models on real gloo ranks: the bytes that they send and hold beside the planner's."""

import pytest
import torch

from engine.model.model import K2Model
from engine.optim.groups import is_muon
from engine.optim.muonclip import MuonClip, matrix_counts
from engine.parallel.layout import Grid, Layout, part_of
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.traffic import COUNTS, GATES, GRADIENTS, GRADIENTS_BACK, OUTPUTS, ROWS, WEIGHTS, counted_traffic
from engine.scale.machines import machines
from engine.scale.memory import memory
from engine.scale.states import FLOAT32, states
from engine.scale.training import Training
from engine.training.language import language_modelling
from engine.training.state import TrainState
from engine.training.step import _micro_batches
from tests.engine.model.live import Live
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

SIZES = config(num_hidden_layers=5, max_position_embeddings=128)
ROWS_A_STEP, LENGTH, PARTS = 8, 96, 4
LAYOUTS = [Layout(ep=2), Layout(pp=2), Layout(pp=2, vpp=2), Layout(pp=2, ep=2, schedule="interleaved_1f1b_warmup")]


def planned(layout, ranks, rows=ROWS_A_STEP, parts=PARTS):
    """The plan of a step in fp32 on CPUs."""
    grid = Grid.of(layout, ranks)
    micro = parts // (grid.dp * grid.ep)
    return Training(SIZES, layout, grid, FLOAT32, machines().gpus["h800"], LENGTH, rows // parts, micro, False)


def step(rank, layout):
    """What this rank gives to collectives in a step's forwards and backwards, and sends to others."""
    with laid_out(layout), counted_traffic() as traffic:
        model = K2Model(SIZES, part=mesh().part(SIZES)).train()
        ids = torch.randint(0, 61, (ROWS_A_STEP, LENGTH + 1), generator=torch.Generator().manual_seed(0))
        mine = mesh().rows
        own = ids[ROWS_A_STEP * mine.rank // mine.size : ROWS_A_STEP * (mine.rank + 1) // mine.size]
        _micro_batches(model, {"ids": own}, language_modelling, "float32", PARTS)
        return dict(traffic.given), dict(traffic.crossed)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_step_sends_what_the_planner_says(layout):
    """To the byte. What crosses of an all-to-all depends on the tokens' choices, what is given to it does not."""
    ranks = layout.pp * layout.ep
    training = planned(layout, ranks)
    measured = together(ranks, step, layout)
    for kind in (OUTPUTS, GRADIENTS_BACK):
        for (_, crossed), messages in zip(measured, training.messages, strict=True):
            assert crossed.get(kind, 0) == sum(message.bytes for message in messages if message.name == kind)
    for kind in (*ROWS, *GATES, COUNTS):
        given = sum(of.get(kind, 0) for of, _ in measured)
        assert given == pytest.approx(sum(m.given for of in training.messages for m in of if m.name == kind), abs=0.5)
    if layout.ep > 1:
        crossed = sum(of[kind] for _, of in measured for kind in ROWS)
        assert crossed == pytest.approx(sum(m.bytes for of in training.messages for m in of if m.name in ROWS), rel=0.2)


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout()], ids=str)
def test_a_rank_holds_what_the_planner_says(layout):
    """To the byte: weights with the routers' biases, gradients, and the optimizer's state after a step."""
    grid = Grid.of(layout, layout.pp * layout.ep)
    for rank, expected in enumerate(states(SIZES, layout, grid, FLOAT32, zero=False)):
        model = K2Model(SIZES, part=part_of(layout, grid, rank, SIZES.num_hidden_layers, SIZES.n_routed_experts))
        assert sum(t.numel() * 4 for t in model.state_dict().values()) == expected.weights
        assert sum(p.numel() * 4 for p in model.parameters()) == expected.gradients
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer = MuonClip(model, 0.0, tau=0.0)
        optimizer.step()
        moments = {name: t for name, t in optimizer.state_dict().items() if name.split("/")[0] in {"muon", "adamw"}}
        assert sum(t.numel() * 4 for name, t in moments.items() if not name.endswith("/step")) == expected.optimizer


def owned_step(rank, layout):
    """The bytes of this rank's optimizer state after a step under ZeRO-1, and what it sent for it."""
    with laid_out(layout):
        model = K2Model(SIZES, part=mesh().part(SIZES)).train()
        counts = None if model.part is None else matrix_counts(K2Model(SIZES), is_muon, False)
        state = TrainState(model, MuonClip(model, 0.0, tau=0.0, zero=True, counts=counts))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with counted_traffic() as traffic:
            state.gradients.reduce_()
            state.optimizer.step()
        own = {name: t for name, t in state.optimizer.state_dict().items() if name.split("/")[0] in {"muon", "adamw"}}
        return sum(t.numel() * 4 for name, t in own.items() if not name.endswith("/step")), dict(traffic.crossed)


@pytest.mark.parametrize(
    "layout", [Layout(zero=1), Layout(ep=2, zero=1), Layout(pp=2, ep=2, zero=1), Layout(pp=2, zero=1)], ids=str
)
def test_owners_hold_and_send_what_the_planner_says(layout):
    """To the byte, on every rank."""
    ranks = 2 if layout.pp == 1 else 4
    training = planned(layout, ranks)
    measured = together(ranks, owned_step, layout)
    for (held, crossed), expected, messages in zip(measured, training.states, training.messages, strict=True):
        assert held == expected.optimizer
        for kind in (GRADIENTS, WEIGHTS):
            assert crossed.get(kind, 0) == sum(message.bytes for message in messages if message.has_kind(kind))


def live(rank, layout, rows):
    """The bytes alive between a micro-batch's forward and its backward, without the weights."""
    with laid_out(layout):
        model = K2Model(SIZES, part=mesh().part(SIZES)).train()
        generator = torch.Generator().manual_seed(rank)
        ids = torch.randint(0, 61, (rows, LENGTH + 1), generator=generator)
        with Live() as meter:
            loss, _ = language_modelling(model, {"ids": ids})
            held = meter.bytes([*model.parameters(), *model.buffers()])
        assert loss.requires_grad
        return held


@pytest.mark.parametrize("layout", [Layout(), Layout(ep=2)], ids=str)
def test_live_bytes_are_within_five_percent(layout):
    rows, ranks = 4, layout.ep
    training = planned(layout, ranks, rows=rows * ranks, parts=ranks)
    held = together(ranks, live, layout, rows)
    kept = [one.activations + one.head for one in memory(training)]
    assert sum(held) == pytest.approx(sum(kept), rel=0.05)
