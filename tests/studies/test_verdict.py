"""Every verdict, each from results that lead to it."""

import math

import pytest

from studies.schema import Study
from studies.verdict import ALPHA, assess, judge
from tests.studies.test_schema import whole
from tests.studies.toy import study

SEEDS = (1, 2, 3, 4, 5)
NOISE = (0.001, -0.002, 0.0015, -0.001, 0.0005)


def differs(role, says, arm, **bound):
    return {"role": role, "says": says, "measure": "loss", "contrast": {arm: 1, "b": -1}, **bound}


CRITERIA = [
    differs("claim", "a below b", "a", below=0.0),
    differs("negative_control", "b like b again", "again", within=0.02),
    differs("positive_control", "worse is seen", "worse", above=0.0),
    {"role": "precondition", "says": "it fires", "measure": "fired", "arms": ["a"], "each_at_least": 1},
]


def made_up(criteria=CRITERIA, **changes):
    arms = {name: {"about": name} for name in ("a", "b", "again", "worse")}
    return Study.model_validate(whole(study(arms=arms, sweeps={}, criteria=criteria, **changes)))


def results(gain=0.1, again=0.0, worse=0.3, fired=1.0, n=5, drop=()):
    level = {"a": 3.0 - gain, "b": 3.0, "again": 3.0 + again, "worse": 3.0 + worse}
    return [
        {
            "arm": arm, "budget": budget, "seed": seed, "failed": "diverged" if (arm, seed) in drop else None,
            "figures": {"loss": level[arm] + 0.3 * seed + NOISE[(i + j) % 5], "fired": fired},
        }
        for budget in ("1x", "2x") for i, seed in enumerate(SEEDS[:n]) for j, arm in enumerate(level)
    ]  # fmt: skip


def verdict(study_, runs, edges=(), family=1):
    table = {"it": assess(study_, runs, edges)}
    return judge(table, {"it": True, **{str(i): True for i in range(family - 1)}})["it"]


def test_supported() -> None:
    assert verdict(made_up(), results())[0] == "supported"


def test_contradicted() -> None:
    assert verdict(made_up(), results(gain=-0.1))[0] == "contradicted"


def test_inconclusive_without_a_difference() -> None:
    outcome, _, why = verdict(made_up(), results(gain=0.0))
    assert outcome == "inconclusive"
    assert "a below b" in why


@pytest.mark.parametrize("changes", [{"again": 0.1}, {"worse": 0.0}])
def test_inconclusive_when_a_control_fails(changes) -> None:
    outcome, _, why = verdict(made_up(), results(**changes))
    assert outcome == "inconclusive"
    assert "control" in why


def test_inconclusive_with_the_sweeps_winner_at_the_edge() -> None:
    outcome, _, why = verdict(made_up(), results(), edges=["muon"])
    assert (outcome, "edge" in why) == ("inconclusive", True)


def test_not_testable_without_its_precondition() -> None:
    assert verdict(made_up(), results(fired=0.0))[0] == "not testable here"


def test_not_testable_by_registration() -> None:
    outcome, _, why = verdict(made_up(not_testable="too small"), results())
    assert (outcome, why) == ("not testable here", "too small")


def test_both_budgets_must_hold() -> None:
    runs = results()
    for run in runs:
        if run["budget"] == "2x" and run["arm"] == "a":
            run["figures"]["loss"] += 0.1
    assert verdict(made_up(), runs)[0] == "inconclusive"


def test_four_seeds_decide_nothing() -> None:
    assert verdict(made_up(), results(n=4))[0] != "supported"
    assert verdict(made_up(), results(drop={("a", 3)}))[0] != "supported"


def test_holm_over_the_table_can_take_a_verdict_back() -> None:
    runs = results(gain=0.003)
    alone = assess(made_up(), runs)
    assert ALPHA / 10 < alone.p <= ALPHA
    assert verdict(made_up(), runs)[0] == "supported"
    outcome, p, why = verdict(made_up(), runs, family=10)
    assert (outcome, why) == ("inconclusive", "not after Holm's correction")
    assert p == pytest.approx(min(1, 10 * alone.p))


def test_equivalence_is_not_the_lack_of_a_difference() -> None:
    free = [{**CRITERIA[0], "below": None, "within": 0.02}, *CRITERIA[1:]]
    assert verdict(made_up(free), results(gain=0.0))[0] == "supported"
    assert verdict(made_up(free), results(gain=0.1))[0] == "contradicted"
    noisy = results(gain=0.0)
    for run in noisy:
        run["figures"]["loss"] += 0.05 * (run["seed"] % 2) * (run["arm"] == "a")
    assert verdict(made_up(free), noisy)[0] == "inconclusive"


def test_ratios_are_compared_as_logs() -> None:
    """Values a/b = 0.5 on every seed, whatever b is: log ratio −0.693 without spread."""
    criterion = {**CRITERIA[0], "log": True, "below": -0.69}
    runs = results()
    for run in runs:
        run["figures"]["loss"] = (0.5 if run["arm"] == "a" else 1.0 if run["arm"] != "worse" else 2.0) * run["seed"]
    outcome = assess(made_up([criterion, *CRITERIA[1:]]), runs).outcomes[0]
    assert outcome.estimate is not None
    assert outcome.estimate.mean == pytest.approx(-0.693147, abs=1e-5)
    assert outcome.state() == "holds"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "test", [{"below": 0.0}, {"above": -1.0}, {"within": 0.5}, {"each_at_most": 9.0}, {"each_at_least": -9.0}]
)
def test_figures_that_are_not_finite_decide_nothing(value: float, test: dict[str, float]) -> None:
    runs = results()
    for run in runs:
        run["figures"]["loss"] = value
    each = next(iter(test)).startswith("each")
    over = {"contrast": None, "arms": ("a",)} if each else {}
    outcome = assess(made_up([{**CRITERIA[0], "below": None, **over, **test}, *CRITERIA[1:]]), runs).outcomes[0]
    assert (outcome.p, outcome.p_turned, outcome.state()) == (1.0, 1.0, "open")


def test_a_ratio_of_nothing_decides_nothing() -> None:
    runs = results()
    for run in runs:
        run["figures"]["loss"] = 0.0
    outcome = assess(made_up([{**CRITERIA[0], "log": True}, *CRITERIA[1:]]), runs).outcomes[0]
    assert outcome.state() == "open"


@pytest.mark.parametrize(
    ("weights", "identical", "state"),
    [
        ([("x", "x")] * 5, True, "holds"),
        ([("x", "y")] * 5, True, "turned"),
        ([("x", "x")] * 4 + [("x", "y")], True, "open"),
        ([("x", "y")] * 5, False, "holds"),
    ],
)
def test_run_by_run(weights, identical, state) -> None:
    claim = {"role": "claim", "says": "bits", "measure": "w", "arms": ["a", "b"], "identical": identical}
    same = [claim, *CRITERIA[1:]]
    runs = results()
    for run in runs:
        pair = weights[SEEDS.index(run["seed"])]
        run["figures"]["w"] = pair[1] if run["arm"] == "b" else pair[0]
    judged = assess(made_up(same), runs)
    assert judged.outcomes[0].state() == state
    assert not judged.sampled
