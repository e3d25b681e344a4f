"""The fields of a registration, and the refusal of wrong ones by name."""

import pytest
import yaml

from engine.errors import UserError
from studies.registration import names, overlay, register
from studies.schema import LEAST_SEEDS, Study
from tests.studies.toy import COMMON, ROOT, STUDY, register_at, study


def whole(content):
    """Return a study's content with the common settings under its own."""
    return {**content, "settings": overlay(COMMON, content["settings"], "settings")}


@pytest.mark.parametrize("name", names(ROOT / "conf/studies"))
def test_every_registered_study_keeps_the_protocol(name) -> None:
    study = register(ROOT / "conf/studies", name).study
    roles = {criterion.role for criterion in study.criteria}
    assert {"claim", "negative_control", "positive_control"} <= roles
    assert len(study.seeds) >= LEAST_SEEDS
    assert len(study.budgets) >= 2
    steps = sorted(study.budgets.values())
    assert steps[-1] >= 4 * steps[0]
    claims = [criterion for criterion in study.criteria if criterion.role == "claim"]
    for budget in study.budgets:
        assert any(budget in study.budgets_of(criterion) for criterion in claims), "the direction at every budget"
    for sweep in study.sweeps.values():
        rates, decays = sweep.grid["optimizer.lr"], sweep.grid["optimizer.weight_decay"]
        assert next(iter(sweep.grid)) == "optimizer.lr"
        assert (len(rates) >= 5, len(decays) >= 2) == (True, True)


CASES = {
    "unknown field": ({"verdict": "supported"}, "field verdict is unknown"),
    "few seeds": ({"seeds": [1, 2, 3]}, "seeds"),
    "pilot seeds": ({"seeds": [1, 2, 3, 4, 9000]}, "seed 9000 is kept for pilots"),
    "tuned on test seeds": (
        {"sweeps": {"rate": {**STUDY["sweeps"]["rate"], "seeds": [3]}}},
        "seed 3 both tunes and tests",
    ),
    "unknown arm": (
        {"criteria": [{**STUDY["criteria"][0], "arms": ["nevr", "without"]}, *STUDY["criteria"][1:]]},
        "did you mean never",
    ),
    "two tests": ({"criteria": [{**STUDY["criteria"][1], "below": 0.0}]}, "exactly one of"),
    "no control": ({"criteria": STUDY["criteria"][:2]}, "lack a negative_control"),
    "no such run": (
        {"criteria": [{**STUDY["criteria"][0], "arms": ["tuned", "without"]}, *STUDY["criteria"][1:]]},
        "arm tuned does not run at budget 2x",
    ),
    "unknown setting": ({"settings": {"optimizer": {"taau": 3}}}, "there is no taau"),
    "unknown model field": ({"settings": {"model": {"hiden_size": 3}}}, "there is no hiden_size"),
    "missing": ({"claim": None}, "claim"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_by_name(tmp_path, case) -> None:
    changes, message = CASES[case]
    conf = register_at(tmp_path, study(**changes), commit=False)
    with pytest.raises(UserError, match="toy.yml") as error:
        register(conf, "toy")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_study_is_answered_with_those_there_are(tmp_path) -> None:
    with pytest.raises(UserError, match="choose one of toy"):
        register(register_at(tmp_path, study(), commit=False), "tpy")


def test_the_toy_is_a_study() -> None:
    assert Study.model_validate(whole(yaml.safe_load(yaml.safe_dump(STUDY)))).budgets == {"1x": 6, "2x": 12}
