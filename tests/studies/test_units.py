"""The units of a study: overrides, branches, equal compute, winners, keys."""

import math
from dataclasses import replace

import pytest

from engine.errors import UserError
from studies.schema import Settings, Study
from studies.units import arm_units, schedule_of, step_flops, sweep_units, winner
from tests.studies.test_schema import whole
from tests.studies.toy import SMALL, study

WINNERS = {"rate": {"optimizer.lr": 0.02}}


def toy(**changes) -> Study:
    return Study.model_validate(whole(study(**changes)))


def test_every_arm_seed_and_budget_is_a_unit() -> None:
    units = arm_units(toy(), WINNERS, 512)
    assert len(units) == len({unit.folder for unit in units}) == 5 * (2 + 2 + 1 + 1 + 2 + 1)
    tuned = next(unit for unit in units if unit.arm == "tuned")
    assert tuned.settings.optimizer.lr == 0.02
    assert {unit.seed for unit in arm_units(toy(), WINNERS, 512, (9000,))} == {9000}


def test_a_branch_leaves_the_longest_trunk_where_its_decay_begins() -> None:
    units = arm_units(toy(), WINNERS, 512)
    trunk = next(unit for unit in units if unit.arm == "constant")
    branches = [unit for unit in units if unit.arm == "branched" and unit.seed == trunk.seed]
    assert trunk.keep == tuple(unit.leaves for unit in branches) == (4, 8)
    assert all(unit.trunk == trunk for unit in branches)
    for unit in branches:
        assert schedule_of(unit.settings, unit.steps).phases[-1].length == unit.steps - unit.leaves


def test_a_branch_beyond_its_trunk_is_refused() -> None:
    arms = {**study()["arms"]}
    arms["constant"] = {**arms["constant"], "budgets": ["1x"]}
    criteria = study()["criteria"][:3]
    criteria += [{**study()["criteria"][3], "budgets": ["1x"]}]
    with pytest.raises(UserError, match="constant ends before step 8"):
        arm_units(toy(arms=arms, criteria=criteria), WINNERS, 512)


@pytest.mark.parametrize(
    ("shape", "phases"), [("wsd", (20, 120, 60)), ("cosine", (20, 0, 180)), ("constant", (20, 180, 0))]
)
def test_schedules(shape, phases) -> None:
    values = toy().settings.model_dump()
    values["schedule"] |= {"shape": shape, "warmup": 20}
    schedule = schedule_of(Settings.model_validate(values), 200)
    lengths = {phase.shape: phase.length for phase in schedule.phases}
    assert tuple(lengths.get(name, 0) for name in ("warmup", "constant", "cosine")) == phases
    if "cosine" in lengths:
        assert schedule.lr(200) == pytest.approx(schedule.peak / 10)


def test_a_cosine_cut_off_is_laid_out_over_its_horizon() -> None:
    values = toy().settings.model_dump()
    values["schedule"] |= {"shape": "cosine", "horizon": 4.0, "warmup": 20}
    assert schedule_of(Settings.model_validate(values), 200).total == 800


def test_equal_compute_spends_the_same_flops() -> None:
    arms = {name: study()["arms"][name] for name in ("never", "without")}
    arms["wide"] = {"about": "wider", "settings": {"model": {"hidden_size": 24, "num_attention_heads": 4}}}
    criteria = [
        {**study()["criteria"][0], "role": role, "identical": True}
        for role in ("claim", "negative_control", "positive_control")
    ]
    equal = toy(arms=arms, criteria=criteria, sweeps={}, equal_compute="never", budgets={"1x": 1000, "4x": 4000})
    spent: dict[str, list[float]] = {}
    for unit in arm_units(equal, {}, 512):
        spent.setdefault(unit.budget, []).append(unit.steps * step_flops(unit.settings, 512))
    for flops in spent.values():
        assert max(flops) / min(flops) < 1.002


def test_the_winner_is_the_lowest_mean_of_whole_points() -> None:
    sweep = toy().sweeps["rate"]
    results = {(0.001,): [3.0, 3.2], (0.01,): [2.9, 3.1], (0.02,): [1.0, None]}
    assert winner(results, sweep) == ({"optimizer.lr": 0.01}, True)
    assert winner({**results, (0.001,): [1.0, 1.0]}, sweep) == ({"optimizer.lr": 0.001}, False)
    for diverged in (math.nan, -math.inf, math.inf):
        assert winner({**results, (0.001,): [1.0, diverged]}, sweep) == ({"optimizer.lr": 0.01}, True)
    with pytest.raises(UserError, match="every point failed"):
        winner({point: [None] for point in results}, sweep)


def test_a_sweep_reads_the_validation_split_and_its_own_seeds() -> None:
    units = [unit for units in sweep_units(toy(), "rate").values() for unit in units]
    assert {unit.split for unit in units} == {"validation"}
    assert {unit.seed for unit in units} == {11}
    assert {unit.settings.optimizer.lr for unit in units} == {0.001, 0.01, 0.02}


def test_the_key_is_of_all_that_decides_the_bits_and_nothing_else() -> None:
    unit = arm_units(toy(), WINNERS, 512)[0]
    key = unit.key("code", "data")
    assert key == replace(unit, budget="named otherwise").key("code", "data")
    others = [
        replace(unit, seed=99),
        replace(unit, steps=7),
        replace(unit, settings=toy(settings={**SMALL, "batch_size": 4}).settings),
    ]
    keys = {key, unit.key("other", "data"), unit.key("code", "other"), *(other.key("code", "data") for other in others)}
    assert len(keys) == 6
