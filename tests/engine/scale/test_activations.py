"""What a pipeline's ranks keep for backwards: less with every switch, and as many chunks as the schedule has begun."""

from itertools import combinations

import pytest

from engine.parallel.layout import WHOLE, Layout
from engine.parallel.pipeline_table import table
from engine.scale.activations import RECOMPUTE, Rows, chunk_bytes, head_bytes, most_kept
from engine.scale.states import BFLOAT16
from tests.engine.scale.models import K2

ROWS = Rows(1, 4096, 16)
EVERY = [some for size in range(len(RECOMPUTE) + 1) for some in combinations(RECOMPUTE, size)]


@pytest.mark.parametrize("fp8", [False, True])
def test_every_switch_saves_and_none_costs(fp8):
    for layer in (0, 1):
        kept = {on: chunk_bytes(K2, [layer], ROWS, BFLOAT16, Layout(recompute=on, fp8_storage=fp8)) for on in EVERY}
        for fewer, more in ((a, b) for a in EVERY for b in EVERY if set(a) < set(b)):
            assert kept[more] <= kept[fewer]
        for switch in ("norm", "swiglu", "mla_up"):
            assert kept[(switch,)] < kept[()]
        whole = chunk_bytes(K2, [layer], ROWS, BFLOAT16, WHOLE)
        assert chunk_bytes(K2, [layer], ROWS, BFLOAT16, Layout(fp8_storage=True)) < whole


def test_tokens_and_layers_add_up():
    one = chunk_bytes(K2, [1], ROWS, BFLOAT16, WHOLE)
    assert chunk_bytes(K2, [1, 2], Rows(10, 4096, 16), BFLOAT16, WHOLE) == pytest.approx(20 * one)


@pytest.mark.parametrize("vpp", [2, 4])
def test_the_first_rank_keeps_the_most_and_one_more_warm_up_one_more(vpp):
    size = dict.fromkeys(range(16 * vpp), 1.0)
    kept = [most_kept(actions, size) for actions in table("interleaved_1f1b", 16, vpp, 64)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 16 * (vpp - 1) + 2 * 15 + 1
    warm = [most_kept(actions, size) for actions in table("interleaved_1f1b_warmup", 16, vpp, 64)]
    assert warm == [one + 1 for one in kept]


def test_larger_stages_weigh_more():
    actions = table("interleaved_1f1b", 2, 2, 4)[0]
    assert most_kept(actions, {0: 1.0, 2: 3.0}) > most_kept(actions, {0: 1.0, 2: 1.0})
    assert most_kept(actions, {0: 2.0, 2: 2.0}) == 2 * most_kept(actions, {0: 1.0, 2: 1.0})


def test_the_head_keeps_its_own_gradient_and_three_rows_a_token():
    assert head_bytes(K2, 0, BFLOAT16) == K2.vocab_size * K2.hidden_size * 2
    assert head_bytes(K2, 10, BFLOAT16) - head_bytes(K2, 0, BFLOAT16) == 10 * 3 * 7168 * 2
