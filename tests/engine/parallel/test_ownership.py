"""Owners under ZeRO-1: every number has one, no matrix is cut, and the plans of Moonlight and K2 are in balance."""

import subprocess
import sys
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch
import yaml

from engine.model.model import K2Model
from engine.model.parameters import config_from_parameters
from engine.optim.groups import is_muon
from engine.parallel.layout import Grid, Layout, part_of
from engine.parallel.ownership import STATE, WORK, Load, owners, weight_of
from engine.parallel.placement import is_expert
from engine.parallel.traffic import GRADIENTS, WEIGHTS
from kernels.newton_schulz_cost import multiplications
from tests.engine.tiny import config

HEADED = ("q_b_proj.weight", "kv_b_proj.weight")


def weights(of_model, layout, grid, stage=0, heads=None):
    """The trained weights of a stage's ranks."""
    first = stage * grid.dp * grid.ep
    part = part_of(layout, grid, first, of_model.num_hidden_layers, of_model.n_routed_experts)
    with torch.device("meta"):
        named = dict(K2Model(of_model, None, part).named_parameters())
    return [
        weight_of(name, tuple(p.shape), is_muon(name, p), heads if name.endswith(HEADED) else None)
        for name, p in named.items()
    ]


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize(("dp", "ep"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 2), (16, 1)])
def test_every_number_has_one_owner_and_no_matrix_is_cut(dp, ep, heads):
    held = weights(config(), Layout(ep=ep), Grid(dp=dp, ep=ep), heads=heads)
    plan = owners(held, dp, ep, masters=False)
    state = dict.fromkeys(range(dp * ep), 0)
    for weight in held:
        offsets, block = plan.offsets[weight.name], weight.shape[0] // weight.blocks
        whole = weight.shape[0] * (ep if is_expert(weight.name) else 1)
        assert (len(offsets), offsets[0], offsets[-1]) == (dp * ep + 1, 0, whole)
        assert all(start <= end and start % block == 0 for start, end in pairwise(offsets))
        rows = [(d, e, plan.rows(weight.name, d, e)) for d in range(dp) for e in range(ep)]
        for place in range(ep if is_expert(weight.name) else 1):
            of = [range_ for _, e, range_ in rows if not is_expert(weight.name) or e == place]
            assert sorted(row for range_ in of for row in range_) == list(range(weight.shape[0]))
        for d, e, range_ in rows:
            state[d * ep + e] += len(range_) * prod(weight.shape[1:]) * (8 if weight.kind == "rows" else 4)
    assert [load.state for load in plan.loads] == list(state.values())
    work = sum(
        multiplications(*shape) * weight.blocks * (ep if is_expert(weight.name) else 1)
        for weight in held
        for shape in weight.matrices
    )
    assert sum(plan.loads, Load()).work == pytest.approx(work)


def read(path):
    return yaml.safe_load((Path("conf") / path).read_text())


def profile(name):
    """A profile's model as pretrain trains it, and its layout."""
    blocks = [read(f"{each}/parameters/pretrain.yml")["pretrain"]["model"] for each in ("base", name)]
    layout = read(f"{name}/compute.yml")["train"]["layout"]
    sizes = {field: layout[field] for field in ("pp", "vpp", "ep") if field in layout}
    return config_from_parameters(blocks[0] | blocks[1], 1000, 8192), Layout(**sizes)


def plans(name, dp, heads=None):
    """The plan of each stage."""
    model_config, layout = profile(name)
    grid = Grid(layout.pp, dp, layout.ep)
    return [owners(weights(model_config, layout, grid, stage, heads), dp, layout.ep) for stage in range(layout.pp)]


def spread(stages):
    """The largest state and work of all ranks by their means."""
    loads = [load for plan in stages for load in plan.loads]
    mean = sum(loads, Load()) * (1 / len(loads))
    return max(load.state for load in loads) / mean.state, max(load.work for load in loads) / mean.work


@pytest.mark.parametrize("heads", [None, 16])
@pytest.mark.parametrize("dp", [1, 8, 32])
def test_moonlight_s_ranks_are_in_balance(dp, heads):
    state, work = spread(plans("moonlight", dp, heads))
    assert state <= STATE
    assert work <= WORK


@pytest.mark.parametrize("heads", [None, 64])
def test_k2_s_ranks_are_in_balance_at_256(heads):
    state, work = spread(plans("k2", 1, heads))
    assert state <= STATE
    assert work <= WORK


@pytest.mark.parametrize(("dp", "state", "work"), [(4, 1.13, 1.18), (8, 1.15, 1.16)])
def test_k2_at_1024_and_2048_is_as_even_as_its_stages_allow(dp, state, work):
    """A stage of four MoE layers has 1.067 of the mean of 3.75 already; within a stage both bounds hold.

    Not in the first: its dense feed-forward's matrices are 36 times an expert's work each, and whole.
    """
    stages = plans("k2", dp)
    everywhere = spread(stages)
    assert everywhere[0] <= state
    assert everywhere[1] <= work
    for plan in stages[1:]:
        assert plan.balance[0] <= STATE + 0.002
        assert plan.balance[1] <= WORK


def test_k2_s_experts_even_out_what_whole_dense_matrices_do_not():
    """The output projections, 4 of them on 16 ranks, are four fifths of the dense work of a stage."""
    model_config, layout = profile("k2")
    dense = [w for w in weights(model_config, layout, Grid(16, 1, 16), 7) if not is_expert(w.name)]
    alone = owners(dense, 1, 16)
    assert 3.2 < alone.balance[1] < 3.4
    assert plans("k2", 1)[7].balance[1] < 1.06


def test_two_expert_ranks_of_a_stage_share_the_attention_s_state():
    grid, layout = Grid(pp=2, ep=2), Layout(pp=2, ep=2)
    for stage in range(2):
        plan = owners(weights(config(num_hidden_layers=4), layout, grid, stage), 1, 2)
        of = [
            sum(len(plan.rows(name, 0, ep)) * prod(w.shape[1:]) for name, w in plan.weights.items() if "attn" in name)
            for ep in range(2)
        ]
        assert 0.35 <= of[0] / sum(of) <= 0.65
        experts = {name: plan.rows(name, 0, 1) for name, weight in plan.weights.items() if is_expert(weight.name)}
        assert set(experts.values()) == {range(3)}, "dp is 1, so a rank owns all experts that it holds"


def test_the_bytes_of_a_step():
    """Of a 6×4 matrix, a gain of 128 and 4 experts of 2×3 on two ranks: who owns the matrix sends no gradient of it."""
    held = [
        weight_of("w", (6, 4), True),
        weight_of("gain", (128,), False),
        weight_of("mlp.experts.down", (4, 2, 3), True),
    ]
    plan = owners(held, 2, 1)
    owner = next(dp for dp in range(2) if len(plan.rows("w", dp, 0)))
    for dp in range(2):
        matrix, experts = 24 * (dp == owner), 6 * len(plan.rows("mlp.experts.down", dp, 0))
        own = matrix + 64 + experts
        assert plan.sent(dp, 0, gradient=4, weight=2) == {GRADIENTS: (24 + 128 + 24 - own) * 4, WEIGHTS: own * 2}
    plan = owners(held, 1, 2)
    total = [plan.sent(0, ep, gradient=4, weight=2) for ep in range(2)]
    assert sum(sent[GRADIENTS] for sent in total) == (24 + 128) * 4, "experts stay where they are"
    assert sum(sent[WEIGHTS] for sent in total) == (24 + 128) * 2


def test_planning_needs_no_torch():
    code = "import sys, engine.parallel.ownership; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
