"""The learning rate of every step, to the bit, as recorded from the formulas before there was one type of schedule."""

import hashlib
import json
import struct
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from engine.optim.schedule import Schedule
from nodes.extend.schema import Parameters as Extend
from nodes.pretrain.schema import Parameters as Pretrain
from nodes.rl.schema import Parameters as Rl
from nodes.sft.schema import Parameters as Sft
from studies.schema import Settings
from studies.units import schedule_of
from tests.nodes import text

RECORDED = json.loads(Path(__file__).with_name("rates.json").read_text())
MODELS = {"pretrain": Pretrain, "extend": Extend, "sft": Sft, "rl": Rl}


def bits(schedule: Schedule, steps: int) -> list[object]:
    rates = [schedule.lr(step + 1) for step in range(steps)]
    return [steps, hashlib.blake2b(struct.pack(f"<{steps}d", *rates), digest_size=16).hexdigest()]


@pytest.mark.parametrize("stage", MODELS)
@pytest.mark.parametrize("profile", ["laptop", "smoke", "h200", "moonlight", "k2"])
def test_every_profiles_rates_are_those_recorded(profile, stage):
    own = Path(text.ROOT / f"conf/{profile}/parameters/{stage}.yml").exists()
    schedule = MODELS[stage].model_validate(text.parameters(stage, profile if own else None)).schedule
    assert bits(schedule, schedule.total) == RECORDED[f"{profile}/{stage}"]


@pytest.mark.parametrize("steps", [7, 250, 1000])
@pytest.mark.parametrize("horizon", [1.0, 4.0])
@pytest.mark.parametrize("shape", ["wsd", "cosine", "constant"])
def test_the_studies_rates_are_those_recorded(shape, horizon, steps):
    values = deepcopy(yaml.safe_load((text.ROOT / "conf/studies/common.yml").read_text()))
    values["schedule"] |= {"shape": shape, "horizon": horizon}
    schedule = schedule_of(Settings.model_validate(values), steps)
    assert bits(schedule, steps) == RECORDED[f"studies/{shape} x{horizon:g} {steps}"]
