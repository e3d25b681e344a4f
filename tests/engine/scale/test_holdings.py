"""Every number is counted once: listed as the model has it, held where a layout puts it, owned by one rank."""

from math import prod

import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.layout import Grid, Layout
from engine.scale.holdings import held, ownership, part_at
from engine.scale.states import BFLOAT16, FLOAT32, states
from engine.scale.weights import BLOCKS, weights
from tests.engine.scale.models import K2, MOONLIGHT
from tests.engine.tiny import config

SHAPES = {
    "plain": {},
    "no q-LoRA": {"q_lora_rank": None},
    "dense only": {"first_k_dense_replace": 3},
    "no dense layer": {"first_k_dense_replace": 0},
    "two shared experts": {"n_shared_experts": 2},
}
LAYOUTS = [
    (Layout(pp, vpp, ep), dp) for pp, vpp in [(1, 1), (2, 1), (2, 2), (4, 1)] for ep in (1, 2, 3) for dp in (1, 2, 3)
]


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_the_list_is_the_models_state(changes):
    c = config(**changes)
    with torch.device("meta"):
        model = K2Model(c, seed=None)
    assert [(w.name, w.shape) for w in weights(c)] == [(n, tuple(t.shape)) for n, t in model.state_dict().items()]


def test_k2_and_moonlight_are_counted_exactly():
    assert sum(w.numbers for w in weights(K2)) == 1_026_408_232_448
    by_block = {block: sum(w.numbers for w in weights(K2) if w.block == block) for block in BLOCKS}
    assert by_block["routed experts"] == 1_014_686_023_680
    assert by_block["router and bias"] == 165_173_760
    outside = ("input embedding", "LM head")
    assert sum(w.numbers for w in weights(MOONLIGHT) if w.block not in outside) == pytest.approx(15.29e9, rel=1e-3)


@pytest.mark.parametrize(("layout", "dp"), LAYOUTS)
def test_the_stages_parts_cover_the_model(layout, dp):
    """Experts are there once for each part along ep, everything else once."""
    c = config(num_hidden_layers=5)
    grid = Grid(layout.pp, dp, layout.ep)
    own = [weight for stage in range(grid.pp) for weight in held(c, part_at(c, layout, grid, stage))]
    total = sum(w.numbers * (grid.ep if w.stacked else 1) for w in own)
    assert total == sum(w.numbers for w in weights(c))


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("layout", "dp"), LAYOUTS)
def test_every_number_has_one_owner(layout, dp, changes):
    c = config(num_hidden_layers=5, **changes)
    grid = Grid(layout.pp, dp, layout.ep)
    owned = 0
    for stage in range(grid.pp):
        plan = ownership(c, layout, grid, stage, masters=False, zero=True)
        for replica in range(dp * grid.ep):
            for name, weight in plan.weights.items():
                owned += len(plan.rows(name, *divmod(replica, grid.ep))) * prod(weight.shape[1:])
    assert owned == sum(w.numbers for w in weights(c) if w.rule != "bias")


@pytest.mark.parametrize(("layout", "dp"), LAYOUTS)
def test_the_ranks_states_add_up(layout, dp):
    """Shared out, the optimizer's bytes are there once; else each replica has its own. Weights do not depend on it."""
    c = config(num_hidden_layers=5)
    grid = Grid(layout.pp, dp, layout.ep)
    shared, whole = (states(c, layout, grid, FLOAT32, zero=zero) for zero in (True, False))
    assert len(shared) == len(whole) == grid.ranks
    muon, adamw = (sum(w.numbers for w in weights(c) if w.rule == rule) for rule in ("muon", "adamw"))
    assert sum(rank.optimizer for rank in shared) == pytest.approx(4 * muon + 8 * adamw)
    experts = sum(w.numbers for w in weights(c) if w.stacked)
    assert sum(rank.optimizer for rank in whole) == pytest.approx(
        dp * (grid.ep * (4 * (muon - experts) + 8 * adamw) + 4 * experts)
    )
    assert [rank.weights for rank in shared] == [rank.weights for rank in whole]
    assert all((rank.replicated > 0) == (dp * grid.ep > 1) for rank in shared)


@pytest.mark.parametrize(("gpus", "mean", "unless_shared"), [(256, 32.1, 37.6), (1024, 8.03, 9.39), (2048, 4.01, 4.70)])
def test_k2s_bytes_a_rank(gpus, mean, unless_shared):
    """28.2 GB of weights and gradients, 28.9 on a stage of four layers; the optimizer's 32, 8 and 4 GB (k2-facts 5).

    Were the attention's states, and those of all else outside of experts, shared along dp alone, a rank would have 8
    bytes for each number it holds, over dp: 37.6, 9.4 and 4.7 GB.
    """
    layout = Layout(pp=16, ep=16)
    grid = Grid.of(layout, gpus)
    ranks = states(K2, layout, grid, BFLOAT16, zero=True)
    model = [(rank.weights + rank.gradients) / 1e9 for rank in ranks]
    assert sum(model) / gpus == pytest.approx(28.2, abs=0.05)
    assert max(model) == pytest.approx(28.9, abs=0.05)
    assert sum(rank.optimizer for rank in ranks) / gpus / 1e9 == pytest.approx(mean, rel=0.002)
    held_numbers = sum(rank.weights for rank in ranks) / 2 / gpus
    assert 8 * held_numbers / grid.dp / 1e9 == pytest.approx(unless_shared, rel=0.002)
