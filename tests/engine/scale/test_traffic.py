"""The bytes of a step's messages: the formulas by hand, and the plan's own count of what its owners send."""

import pytest

from engine.parallel.layout import Grid, Layout
from engine.parallel.traffic import COUNTS, GATES, GRADIENTS, GRADIENTS_BACK, OUTPUTS, ROWS, SUM, WEIGHTS
from engine.scale.holdings import held, ownership, part_at
from engine.scale.states import BFLOAT16, FLOAT32
from engine.scale.traffic import Batch, exchange, traffic
from tests.engine.scale.models import K2
from tests.engine.tiny import config

BATCH = Batch(micro_batches=4, tokens=10)


def sent(c, layout, grid, rank, plan=None, kinds=FLOAT32):
    stage, replica = divmod(rank, grid.dp * grid.ep)
    messages = traffic(c, layout, grid, stage, BATCH, kinds, plan)[replica]
    return {message.name: message.bytes for message in messages}


@pytest.mark.parametrize("ep", [2, 3, 6])
def test_rows_cross_twice_each_way(ep):
    """Out for the tokens and for the results' gradients, back for the results and the tokens' gradients."""
    c = config()
    own = sent(c, Layout(ep=ep), Grid(ep=ep), 0)
    rows = 2 * 40 * c.num_experts_per_tok * (1 - 1 / ep)  # two MoE layers, 40 tokens
    assert own[ROWS[0]] == own[ROWS[1]] == pytest.approx(2 * rows * c.hidden_size * 4)
    assert own[GATES[0]] == own[GATES[1]] == pytest.approx(rows * 4)
    assert own[COUNTS] == pytest.approx(2 * 4 * c.n_routed_experts * 8 * (1 - 1 / ep))


def test_nothing_crosses_where_a_rank_is_alone():
    assert sent(config(), Layout(), Grid(), 0) == {}


@pytest.mark.parametrize(("pp", "vpp"), [(2, 1), (2, 2), (4, 1)])
def test_every_boundary_of_stages_is_crossed_once_each_way(pp, vpp):
    c, layout = config(num_hidden_layers=6), Layout(pp=pp, vpp=vpp)
    own = [sent(c, layout, Grid(pp=pp), rank) for rank in range(pp)]
    for kind in (OUTPUTS, GRADIENTS_BACK):
        assert sum(one.get(kind, 0) for one in own) == (pp * vpp - 1) * 40 * c.hidden_size * 4
    assert (GRADIENTS_BACK in own[0]) == (vpp > 1)
    assert (OUTPUTS in own[-1]) == (vpp > 1)


@pytest.mark.parametrize(("dp", "ep"), [(2, 1), (1, 2), (2, 3)])
def test_plain_sums_are_a_ring_over_those_that_hold_a_weight(dp, ep):
    c, layout, grid = config(), Layout(ep=ep), Grid(dp=dp, ep=ep)
    own = [w for w in held(c, part_at(c, layout, grid, 0)) if w.rule != "bias"]
    dense, experts = (sum(w.numbers for w in own if w.stacked == stacked) for stacked in (False, True))
    messages = sent(c, layout, grid, 0)
    assert messages[f"{SUM}, dense"] == pytest.approx(2 * dense * 4 * (1 - 1 / (dp * ep)))
    assert messages.get(f"{SUM}, experts", 0) == pytest.approx(2 * experts * 4 * (1 - 1 / dp))


@pytest.mark.parametrize(("pp", "dp", "ep"), [(1, 2, 1), (2, 1, 2), (1, 2, 3), (2, 3, 2)])
def test_owners_get_and_send_what_the_plan_says(pp, dp, ep):
    c, layout, grid = config(num_hidden_layers=4), Layout(pp=pp, ep=ep), Grid(pp, dp, ep)
    for rank in range(grid.ranks):
        place = grid.coordinates(rank)
        plan = ownership(c, layout, grid, place["pp"], masters=True, zero=True)
        messages = sent(c, layout, grid, rank, plan, BFLOAT16)
        expected = plan.sent(place["dp"], place["ep"], BFLOAT16.gradient, BFLOAT16.weight)
        for kind in (GRADIENTS, WEIGHTS):
            assert sum(size for name, size in messages.items() if name.startswith(kind)) == expected[kind]


def test_k2s_rows_are_107_kilobytes_a_token_and_way():
    """8 rows of 7168 numbers of two bytes, of which 15 of 16 cross."""
    assert sum(
        message.bytes for message in exchange(K2, 1, 16, Batch(1, 1), BFLOAT16) if message.name in ROWS
    ) == pytest.approx(4 * 107_520)
