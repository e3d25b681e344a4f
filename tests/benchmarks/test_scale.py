"""The benchmark of layouts at its smallest: bytes are the planner's, steps take turns, a missing GPU is named."""

import argparse
import math

import pytest

from benchmarks.scale import cpu, gpu
from benchmarks.scale.cases import CASES, ONE, Case, planned, seconds_of_products
from benchmarks.scale.steps import task
from engine.parallel.layout import Layout
from engine.scale.training import Training
from pipelines.commands.scale import planned as planned_profile

pytestmark = pytest.mark.slow

ARGUMENTS = argparse.Namespace(profile="laptop", pairs=2, steps=1, note="on busy cores")
EVERYTHING = Case("all", 4, Layout(pp=2, ep=2, zero=1), timed=False)


def test_one_row_a_figure_and_all_bytes_are_the_planners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CASES", [Case("pp", 2, Layout(pp=2)), EVERYTHING])
    rows = cpu.rows(ARGUMENTS)
    assert [row.case for row in rows if row.ok is False] == []
    judged = {row.case for row in rows if row.ok}
    assert judged > {"pp: weights", "pp: stage outputs, crossed", "pp: waiting for backwards"}
    assert judged > {"all: gradients to owners, crossed", "all: weights from owners, crossed", "all: optimizer"}
    assert judged > {"all: expert rows out, given", "all: stage gradients, crossed"}
    (timed,) = (row for row in rows if row.unit == "s")
    assert timed.case.startswith("pp: a step, ratio ")
    assert timed.case.endswith(" (on busy cores)")
    assert min(timed.value, timed.baseline_value) > 0


def test_other_bytes_than_the_planners_miss_the_target() -> None:
    ranks = [{"given": {}, "crossed": {"stage outputs": 8}}, {"given": {}, "crossed": {"unheard of": 1}}]
    given = task("smoke", layers=4).config
    rows = list(cpu.messages(Case("pp", 2, Layout(pp=2)), ranks, planned(Case("pp", 2, Layout(pp=2)), given, 8, 64)))
    assert {row.case: row.ok for row in rows} == {
        "pp: stage outputs, crossed": False,
        "pp: stage gradients, crossed": False,
        "pp: unheard of, crossed": False,
    }


def plan(case: Case) -> Training:
    return planned(case, task("smoke", layers=4).config, 8, 64)


def test_two_ranks_are_expected_to_take_half_as_long_and_a_pipeline_more_than_half() -> None:
    one = seconds_of_products(plan(ONE))
    expected = {case.name: seconds_of_products(plan(case)) / one for case in CASES if case.timed}
    assert expected["dp 2, ZeRO-1"] == pytest.approx(0.5, abs=0.02)
    assert all(0.49 < ratio < 1 for ratio in expected.values())
    assert expected["pp 2"] > expected["ep 2"]


def test_without_a_gpu_the_rows_say_so_and_have_the_plan() -> None:
    training, _ = planned_profile("h200", 1, "h200", "", "float32")
    for row in gpu.compared(training, "h200", None):
        assert row.case.endswith("unmeasured: no GPU")
        assert math.isnan(row.value)
        assert row.baseline_value > 0
        assert row.ok is None
    fast, slow, used, most = gpu.compared(training, "h200", gpu.Measured(1.0, 5e9))
    assert fast.value == slow.value == training.step_tokens
    assert slow.baseline_value < fast.baseline_value
    assert 0 < used.value < used.baseline_value
    assert most.value == 5e9
    assert "unmeasured" not in fast.case


def test_what_a_gpu_would_do_runs_on_a_cpu() -> None:
    found = gpu.measured("smoke", 1)
    assert found.seconds > 0
    assert math.isnan(found.peak)
    assert gpu.kind_of("NVIDIA H100 80GB HBM3") == "h100"
