import re

import polars as pl
import pytest

from engine.errors import UserError
from engine.rollout.verifiable import TaskSettings, items, split_of
from nodes.corpus.decontaminate import contaminated
from nodes.corpus.maths import read_maths, write_sum
from nodes.corpus.sources import MathsSource
from nodes.corpus.worked import SOLUTIONS
from nodes.rephrase.arithmetic import facts_of, is_true  # the gate's arithmetic, as an oracle

TASK = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def source(**changes):
    values = {
        "kind": "worked_problems",
        "domain": "maths",
        "license": "Apache-2.0",
        "max_bytes": 10**7,
        "tasks": dict.fromkeys(SOLUTIONS, 5),
        "problems_per_document": 2,
        "sums": 60,
        "sum_task": TASK,
        "sums_per_document": 25,
        "sum_forms": ["compact", "spaced", "worked"],
    }
    return MathsSource.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def documents():
    return list(read_maths(source(), seed=5))


def test_every_worked_step_is_true(documents):
    exact = [document for document in documents if not document.title.startswith("Word problems")]
    lines = [line for document in exact for line in document.text.split("\n") if not line.startswith("Problem")]
    equations = [one for line in lines for one in facts_of(line).equations]
    assert len(equations) > 200
    assert [one for one in equations if not is_true(one)] == []


def test_every_problem_has_question_solution_and_answer(documents):
    worked = [document for document in documents if "problems" in document.title]
    assert len({document.title.split(",")[0] for document in worked}) == len(SOLUTIONS)
    for document in worked:
        for problem in document.text.split("\n\n"):
            assert re.fullmatch(r"Problem: .+\nSolution:\n(.+\n)+Answer: \S.*", problem), problem
            assert not re.search(r"Give only|Do not include|dfrac|####", problem)


def test_the_steps_lead_to_the_generators_own_answer():
    import reasoning_gym

    for task in ("gcd", "lcm", "products", "leg_counting"):
        for entry in reasoning_gym.create_dataset(task, size=20, seed=3):
            numbers = re.findall(r"-?\d+", SOLUTIONS[task][1](entry)[-1])
            assert numbers[-1] == str(entry["answer"])


def test_sums_are_of_the_pretrain_split_and_each_form_has_all(documents):
    forms = {form: [] for form in ("compact", "spaced", "worked")}
    for document in documents:
        if document.title.startswith("Sums"):
            form = document.title.split(", ")[1].split(" ")[0]
            forms[form] += [re.split(r"=|:", line)[0].replace(" ", "") for line in document.text.split("\n")]
    assert len(forms["compact"]) == 60
    assert sorted(forms["compact"]) == sorted(forms["spaced"]) == sorted(forms["worked"])
    assert {split_of(f"{question}=") for question in forms["compact"]} == {"pretrain"}


def test_a_sum_in_its_three_forms():
    (item,) = items(TaskSettings(**TASK), "pretrain", 1, 0)
    compact = write_sum(item, "compact")
    assert compact == item.prompt + item.answer
    assert write_sum(item, "spaced").replace(" ", "") == compact
    worked = write_sum(item, "worked")
    assert worked.endswith(f"Answer: {item.answer}")
    assert all(is_true(one) for one in facts_of(worked).equations)


def test_held_out_questions_are_found_in_any_spelling():
    held_out = items(TaskSettings(**TASK), "evaluation", 1, 0)[0].prompt.rstrip("=")
    allowed = items(TaskSettings(**TASK), "pretrain", 1, 0)[0].prompt.rstrip("=")
    spaced = re.sub(r"([+\-])", r" \1 ", held_out)
    texts = [
        f"Tom has {spaced} = ... coins",
        f"{held_out}=1",
        f"{allowed}=1",
        f"x{held_out}=1",
        f"1{held_out}=1",
        f"{held_out} is not asked",
        "2 + 2 = 4",
    ]
    assert contaminated(pl.Series(texts), [TASK]).to_list() == [True, True, False, False, False, False, False]


def test_too_many_sums_and_unknown_tasks_are_refused():
    with pytest.raises(UserError, match="pretrain split holds"):
        list(read_maths(source(tasks={}, sums=10**6), seed=0))
    with pytest.raises(UserError, match="'sudoku'"):
        list(read_maths(source(tasks={"sudoku": 3}), seed=0))
