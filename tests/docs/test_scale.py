"""docs/scale.md: its figures are the planner's."""

from pathlib import Path

import pytest

from engine.parallel.layout import Grid, Layout
from engine.scale.calibration import calibrated
from engine.scale.fit import fullest, host_bytes
from engine.scale.machines import gpu
from engine.scale.memory import memory, savings_in_turn
from engine.scale.states import BFLOAT16
from engine.scale.step import rates, run, step
from engine.scale.training import Training
from pipelines.commands.scale import planned
from tests.engine.scale.models import MOONLIGHT

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
GPUS = (256, 1024, 2048)


def k2(gpus: int) -> Training:
    return planned("k2", gpus, None, "")[0]


def row(title: str) -> list[str]:
    """The cells of a row of the table of K2, by number of GPUs."""
    (line,) = (line for line in TEXT.split("\n## K2\n")[1].splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.mark.parametrize(("column", "gpus"), enumerate(GPUS))
def test_the_table_of_k2_is_the_planners(column, gpus):
    training = k2(gpus)
    ranks = memory(training)
    states = [rank.visiting / 1e9 for rank in ranks]
    assert row("optimizer states")[column] == f"{sum(states) / gpus:.1f}, {max(states):.1f}"
    assert row("fullest GPU, GB of 80")[column] == f"{max(rank.computing for rank in ranks) / 1e9:.1f}"
    assert row("the same in the optimizer's step")[column] == f"{max(rank.moving for rank in ranks) / 1e9:.1f}"
    never = planned("k2", gpus, None, "offload: [activations]")[0]
    assert row("fullest GPU, GB, with the states")[column] == f"{fullest(memory(never)).total / 1e9:.1f}"
    assert row("on a node's host")[column] == f"{host_bytes(training, ranks) / 1e9:.0f}"
    fast, slow = (step(training, at) for at in rates(training.gpu))
    one, other = (run(training, made.seconds, 15.5e12) for made in (fast, slow))
    assert row("bubble")[column] == f"{slow.bubble * 100:.1f} to {fast.bubble * 100:.1f} %"
    assert row("step, s")[column] == f"{one.step:.0f} to {other.step:.0f}"
    speeds = sorted(each.tokens_per_second / gpus for each in (one, other))
    assert row("tokens/s a GPU")[column] == f"{speeds[0]:,.0f} to {speeds[1]:,.0f}"
    assert row("model FLOPs")[column] == f"{other.mfu * 100:.0f} to {one.mfu * 100:.0f} %"
    assert row("days")[column] == f"{one.days:.0f} to {other.days:.0f}"
    hours = [each.days * 24 * gpus / 1e6 for each in (one, other)]
    assert row("million GPU-hours")[column] == f"{hours[0]:.1f} to {hours[1]:.1f}"
    assert row("at $2")[column] == f"{one.dollars / 1e6:.1f} to {other.dollars / 1e6:.1f}"


def test_the_figures_in_the_text_are_the_planners():
    low, high = calibrated().shares
    assert f"**{low * 100:.0f} to {high * 100:.0f} %**" in TEXT
    kept = dict(savings_in_turn(k2(256)))
    assert (
        f"{kept['none'] / 1e9:.0f} GB wait for backwards on the first ranks, {kept['fp8_storage'] / 1e9:.0f} af" in TEXT
    )
    fast = step(k2(256), rates(gpu("h800", "GPU"))[0])
    assert f"a step is {fast.imbalance:.2f} times as long as an even one" in TEXT
    assert f"the copies cost {fast.host:.1f} s a step" in TEXT


def test_the_prediction_for_moonlight_is_the_planners():
    """16 H100, EP 8, 1,024 rows of 4,096 tokens a step and two a micro-batch, as NVIDIA's card says."""
    training = Training(MOONLIGHT, Layout(ep=8, zero=1), Grid(1, 2, 8), BFLOAT16, gpu("h100", "GPU"), 4096, 2, 32)
    speeds = [training.step_tokens / step(training, at).seconds / 16 for at in rates(training.gpu)]
    (line,) = (line for line in TEXT.splitlines() if "| 22,528 [" in line)
    assert f"| {min(speeds):,.0f} to {max(speeds):,.0f} |" in line
    assert f"{22528 / max(speeds):.2f} times the fast end" in TEXT
