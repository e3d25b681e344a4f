"""The planner as a whole: monotonous where it must be, intervals that are intervals, and what it is calibrated on."""

from dataclasses import replace
from itertools import pairwise

import pytest

from engine.errors import UserError
from engine.parallel.layout import Grid, Layout
from engine.scale.activations import RECOMPUTE
from engine.scale.calibration import calibrated
from engine.scale.fit import fullest, refuse_what_does_not_fit
from engine.scale.machines import gpu, machines
from engine.scale.memory import memory, savings_in_turn
from engine.scale.states import BFLOAT16
from engine.scale.step import rates, run, step
from engine.scale.training import Training
from tests.engine.scale.models import K2, MOONLIGHT

LAYOUT = Layout(
    pp=16,
    vpp=2,
    ep=16,
    schedule="interleaved_1f1b_warmup",
    recompute=RECOMPUTE,
    fp8_storage=True,
    offload=("activations", "optimizer"),
    zero=1,
)


def k2(gpus=256, **changes):
    layout = replace(LAYOUT, **changes)
    grid = Grid.of(layout, gpus)
    return Training(K2, layout, grid, BFLOAT16, gpu("h800", "GPU"), 4096, 1, 16384 // (grid.dp * grid.ep))


def test_every_switch_leaves_the_fullest_rank_no_fuller():
    sizes = [size for _, size in savings_in_turn(k2())]
    assert all(more >= less for more, less in pairwise(sizes))
    assert sizes[0] > 50 * sizes[-1]


def test_k2_fits_32_nodes_only_with_its_published_switches():
    """Recomputed and in FP8, activations would still not fit beside weights and gradients alone."""
    h800 = machines().gpus["h800"]
    assert fullest(memory(k2())).total < h800.memory
    without = [
        k2(offload=("optimizer",)),
        k2(recompute=(), fp8_storage=False, offload=("optimizer",)),
        k2(zero=0, recompute=(), fp8_storage=False, offload=()),
    ]
    for training in without:
        with pytest.raises(UserError, match="activations take"):
            refuse_what_does_not_fit(training, memory(training), "FIELD")


def test_states_that_do_not_fit_are_to_be_shared_then_moved_then_cut_further():
    layout = Layout(pp=2, vpp=1, ep=8)
    training = Training(MOONLIGHT, layout, Grid.of(layout, 32), BFLOAT16, gpu("h800", "GPU"), 4096, 1, 32)
    tight = training.gpu.model_copy(update={"memory": 15e9})
    saved = replace(layout, recompute=RECOMPUTE, fp8_storage=True)
    for tried, remedy in [
        (replace(saved, offload=("activations",)), r"optimizer states take .* \(zero: 1\)"),
        (replace(saved, zero=1), r"take .*; (move|raise|cut)"),
    ]:
        trial = replace(training, layout=tried, gpu=tight)
        with pytest.raises(UserError, match=remedy):
            refuse_what_does_not_fit(trial, memory(trial), "FIELD")


@pytest.mark.parametrize("micro", [128, 160])
def test_a_long_step_goes_on_as_its_last_round(micro, monkeypatch):
    training = replace(k2(), micro_batches=micro)
    at = rates(training.gpu)[0]
    short = step(training, at)
    assert training.played < micro
    monkeypatch.setattr("engine.scale.training.ROUNDS", micro)
    whole = step(training, at)
    assert short.pipeline == pytest.approx(whole.pipeline, rel=1e-9)
    assert short.work == pytest.approx(whole.work, rel=1e-9)


def test_what_is_offloaded_is_on_the_host_and_the_host_is_not_endless():
    on_gpu, away = (memory(k2(offload=some)) for some in ((), LAYOUT.offload))
    for one, other in zip(on_gpu, away, strict=True):
        assert one.host == 0
        assert other.optimizer + other.activations + other.host == pytest.approx(one.optimizer + one.activations)
        assert other.visiting == pytest.approx(one.optimizer)
        assert other.total >= other.weights + other.gradients + other.visiting
    many_rows = replace(k2(), rows=32, micro_batches=32)
    with pytest.raises(UserError, match=r"FIELD.offload: a node's host would get [\d,]+ GB of 2,000: "):
        refuse_what_does_not_fit(
            replace(many_rows, gpu=many_rows.gpu.model_copy(update={"memory": 1e15})), memory(many_rows), "FIELD"
        )


@pytest.mark.parametrize("gpus", [256, 2048])
def test_the_slow_end_is_slower_and_more_gpus_are_faster_and_less_efficient(gpus):
    training = k2(gpus)
    fast, slow = (step(training, at) for at in rates(training.gpu))
    assert slow.seconds > fast.seconds
    assert fast.pipeline == pytest.approx(max(fast.work) * (1 + fast.bubble))
    one, other = (run(training, each.seconds, 15.5e12) for each in (fast, slow))
    assert one.days < other.days
    assert one.dollars < other.dollars
    assert one.mfu > other.mfu
    if gpus == 2048:
        few = k2(256)
        assert fast.seconds < step(few, rates(few.gpu)[0]).seconds
        assert fast.bubble > step(few, rates(few.gpu)[0]).bubble


def test_equal_stages_wait_as_long_as_the_formula_says():
    """Dense layers only and no head to speak of: (p − 1)/(v·m) of the work."""
    layers = replace(K2, num_hidden_layers=32, first_k_dense_replace=32, vocab_size=1)
    layout = Layout(pp=16, vpp=2, zero=1)
    endless_links = k2().gpu.model_copy(update={"cluster_link": 1e30, "node_link": 1e30})
    training = Training(layers, layout, Grid.of(layout, 16), BFLOAT16, endless_links, 4096, 1, 64)
    made = step(training, rates(training.gpu)[0])
    assert made.bubble == pytest.approx(15 / (2 * 64), rel=1e-3)
    assert made.imbalance == pytest.approx(1, rel=1e-3)


def test_one_rank_has_no_bubble_and_sends_nothing():
    training = Training(MOONLIGHT, Layout(), Grid(), BFLOAT16, gpu("h200", "GPU"), 8192, 1, 8)
    made = step(training, rates(training.gpu)[0])
    assert made.bubble == pytest.approx(0)
    assert made.exchange == 0
    assert training.messages == [[]]


def test_the_calibration_returns_the_run_that_it_came_from():
    """A step of DeepSeek-V3 took 15,360 · 4,096 tokens at 2.664M GPU-hours for 14.8T: 19.9 s on 2,048 GPUs."""
    found = calibrated()
    assert found.step == pytest.approx(19.9, abs=0.01)
    assert found.bubble == pytest.approx(14 / 360)
    assert found.exchange < 0.03 * found.step
    low, high = found.shares
    assert 0.2 < low < high < 0.5
    fp8 = machines().ranges.fp8_speedup
    assert high / low < max(fp8) / min(fp8)
