"""The verifiable task: disjoint splits, the whole support of reasoning-gym's generator, its own judge."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.rollout.verifiable import SPLITS, Item, TaskSettings, available, items, score, split_of

THREE = TaskSettings(min_terms=3, max_terms=3)


def test_splits_partition_the_questions():
    seen = [{item.key for item in items(THREE, split, available(THREE, split), 0)} for split in SPLITS]
    assert sum(len(s) for s in seen) == len(set.union(*seen)) == THREE.count == 4000


def test_smallest_task_leaves_enough_to_tune_and_evaluate():
    assert available(THREE, "evaluation") >= 1000
    assert available(THREE, "tuning") >= 300


@settings(max_examples=25, deadline=None)
@given(
    a=st.sampled_from(list(SPLITS)), b=st.sampled_from(list(SPLITS)), seed=st.integers(0, 2**40), n=st.integers(1, 300)
)
def test_draws_of_two_splits_never_meet_under_any_seed(a, b, seed, n):
    left, right = ({item.prompt for item in items(THREE, split, n, seed)} for split in (a, b))
    assert len(left) == n
    assert all(split_of(prompt) == a for prompt in left)
    if a != b:
        assert not left & right


def test_items_are_a_pure_function_and_a_prefix():
    assert items(THREE, "rl", 50, 3) == items(THREE, "rl", 60, 3)[:50] != items(THREE, "rl", 50, 4)


def test_mixed_task_gives_each_length_its_share():
    drawn = items(TaskSettings(min_terms=2, max_terms=3), "sft", 40, 1)
    assert sum(item.prompt.count("+") + item.prompt.count("-") == 1 for item in drawn) == 20


def test_enumeration_is_the_support_of_reasoning_gyms_generator():
    import reasoning_gym

    config = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    task = TaskSettings(**config)
    answers = {item.prompt: item.answer for split in SPLITS for item in items(task, split, available(task, split), 0)}
    for entry in reasoning_gym.create_dataset("chain_sum", size=400, seed=7, **config):
        assert answers[entry["metadata"]["expression"].replace(" ", "") + "="] == entry["answer"]


@pytest.mark.parametrize(
    ("response", "reward"), [("4", 1), (" 4\n", 1), ("04", 1), ("-4", 0), ("44", 0), ("4 5", 0), ("", 0), ("four", 0)]
)
def test_judge_gives_no_partial_credit(response, reward):
    assert score(Item("9-5=", "4", ""), response) == reward


def test_asking_for_too_many_or_for_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="holds"):
        items(THREE, "tuning", 100_000, 0)
    with pytest.raises(ValueError, match="one of"):
        items(THREE, "test", 1, 0)  # type: ignore[arg-type]


def test_settings_that_cannot_be_enumerated_are_refused():
    with pytest.raises(ValidationError, match="lower max_terms"):
        TaskSettings(min_terms=3, max_terms=3, max_digits=2)
    with pytest.raises(ValidationError, match="must not be below"):
        TaskSettings(min_terms=4, max_terms=3)
