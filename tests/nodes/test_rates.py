"""The learning rate of every step, to the bit: what the formulas gave before there was one type of schedule."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from engine.optim.schedule import K2, K2_STEP, Schedule
from nodes.extend.schema import Parameters as Extend
from nodes.pretrain.schema import Parameters as Pretrain
from nodes.rl.schema import Parameters as Rl
from nodes.sft.schema import Parameters as Sft
from studies.schema import Settings
from studies.units import schedule_of
from tests.nodes import text

PACKED = {"pretrain": Pretrain, "extend": Extend}
TUNED = {"sft": Sft, "rl": Rl}
PROFILES = ["laptop", "smoke", "h200", "moonlight", "k2"]


def wsd(at: int, peak: float, decayed: float, final: float, lengths: tuple[int, int, int, int]) -> float:
    """The rate after `at` steps as it was computed: warm-up, constant, cosine and linear, some of no steps."""
    warmup, stable, decay, anneal = lengths
    if at < warmup:
        return peak * at / warmup
    at -= warmup + stable
    if at <= 0:
        return peak
    if at < decay:
        return decayed + (peak - decayed) * 0.5 * (1 + math.cos(math.pi * at / decay))
    at -= decay
    start = decayed if decay or anneal else peak
    return start + (final - start) * min(at / anneal, 1.0) if anneal else start


def assert_same(schedule: Schedule, steps: int, *numbers: float, lengths: tuple[int, int, int, int]) -> None:
    assert steps > 0
    assert all(schedule.lr(step) == wsd(step, *numbers, lengths) for step in range(1, steps + 1))


def parameters(stage: str, profile: str) -> object:
    own = Path(text.ROOT / f"conf/{profile}/parameters/{stage}.yml").exists()
    return (PACKED | TUNED)[stage].model_validate(text.parameters(stage, profile if own else None))


@pytest.mark.parametrize("stage", PACKED)
@pytest.mark.parametrize("profile", PROFILES)
def test_rates_of_training_on_packed_text(profile, stage):
    schedule = parameters(stage, profile).schedule
    length = {phase.shape: phase.length for phase in schedule.phases}
    end = {phase.shape: phase.end for phase in schedule.phases}
    lengths = tuple(length.get(shape, 0) for shape in ("warmup", "constant", "cosine", "linear"))
    decayed = end.get("cosine", schedule.peak)
    assert_same(schedule, schedule.total, schedule.peak, decayed, end["linear"], lengths=lengths)


@pytest.mark.parametrize("profile", PROFILES)
def test_rates_of_fine_tuning_and_reinforcement(profile):
    p = parameters("sft", profile)
    low = p.learning_rate * p.final_rate
    lengths = (p.warmup_steps, 0, p.steps - p.warmup_steps, 0)
    assert_same(p.schedule, p.steps, p.learning_rate, low, 0.0, lengths=lengths)
    p = parameters("rl", profile)
    low = p.learning_rate * p.final_rate
    lengths = (p.warmup_steps, 0, 0, p.steps - p.warmup_steps)
    assert_same(p.schedule, p.steps, p.learning_rate, p.learning_rate, low, lengths=lengths)


@pytest.mark.parametrize("steps", [7, 250, 1000])
@pytest.mark.parametrize("horizon", [1.0, 4.0])
@pytest.mark.parametrize("shape", ["wsd", "cosine", "constant"])
def test_rates_of_the_studies(shape, horizon, steps):
    values = deepcopy(yaml.safe_load((text.ROOT / "conf/studies/common.yml").read_text()))
    values["schedule"] |= {"shape": shape, "horizon": horizon}
    s = Settings.model_validate(values)
    warmup, peak = min(s.schedule.warmup, steps), s.optimizer.lr
    rest = round(steps * horizon) - warmup
    decay = {"wsd": min(round(steps * s.schedule.decay), rest), "cosine": rest, "constant": 0}[shape]
    floor = peak * s.schedule.floor
    lengths = (warmup, rest - decay, decay, 0)
    assert_same(schedule_of(s, steps), steps, peak, floor, floor, lengths=lengths)


def test_the_k2_profile_follows_the_papers_schedule_over_both_stages():
    """WSD counted in tokens, at 2^26 a step: the profile's anneal ends where its 32k stage goes on."""
    done = 0
    for schedule in (parameters(stage, "k2").schedule for stage in PACKED):
        for step in range(1, schedule.total + 1, 97):
            assert schedule.lr(step) == pytest.approx(K2.lr((done + step) * K2_STEP), rel=2e-3)
        done += schedule.total
    assert done * K2_STEP == pytest.approx(K2.total, rel=1e-4)
