"""The template policy on real tasks: without a defect it always passes, with one that showed it never does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toolworld import DEFECTS, FaultRates, TemplatePolicy, load_personas, persona, run_episode
from engine.toolworld.messages import all_calls

PERSONAS = list(load_personas())


def play(task, who, seed, defect="", parallel=False, faults=None):
    policy = TemplatePolicy(task, persona(who), seed, defect, parallel)
    return policy, *run_episode(task, policy, seed, persona(who), faults)


@given(who=st.sampled_from(PERSONAS), seed=st.integers(0, 10**6), parallel=st.booleans())
@settings(max_examples=30, deadline=None)
def test_without_defects_it_passes_under_any_fault(who, seed, parallel):
    task = BANK
    policy, messages, verdict = play(task, who, seed, parallel=parallel, faults=FaultRates(0.4, 0.4, most=3))
    assert verdict.passed, verdict.reasons
    assert not policy.planted
    assert [call["id"].rsplit(":", 1)[1] for _, call in all_calls(messages)] == [
        str(i) for i in range(len(list(all_calls(messages))))
    ]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_that_showed_is_rejected(defect):
    task, shown = BANK, 0
    for seed in range(40):
        who = "vague" if defect == "guessed_detail" else PERSONAS[seed % len(PERSONAS)]
        policy, _, verdict = play(task, who, seed, defect, faults=FaultRates(0.3, 0.3))
        shown += policy.planted
        assert verdict.passed != policy.planted, (verdict.reasons, policy.planted)
    assert shown >= 5


def test_an_episode_replays_exactly():
    faults = FaultRates(0.3, 0.3)
    assert play(BANK, "vague", 5, faults=faults)[1] == play(BANK, "vague", 5, faults=faults)[1]


BANK = None


@pytest.fixture(autouse=True)
def _bank(bank):
    global BANK  # noqa: PLW0603 - hypothesis refuses function-scoped fixtures as arguments
    BANK = bank
