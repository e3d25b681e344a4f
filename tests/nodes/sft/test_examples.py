"""Fine-tuning examples: what is asked about documents, which splits meet, and determinism."""

import json

import polars as pl
import pytest

from engine.rollout.verifiable import TaskSettings, split_of
from nodes.sft import examples

TASK = TaskSettings(min_terms=2, max_terms=3)
DOCUMENT = {
    "title": "Chile: Geography",
    "text": "Chile - Geography\n\nCapital: Santiago\nArea, land: 743,812 sq km\nBackground: " + "long " * 60,
    "split": "train",
}


def test_chats_ask_for_short_facts_by_subject_and_field():
    rows = list(examples.chats([DOCUMENT]))
    question_by_answer = {
        json.loads(row["messages"])[1]["content"]: json.loads(row["messages"])[0]["content"] for row in rows
    }
    assert set(question_by_answer) == {"Santiago", "743,812 sq km"}
    assert "Chile" in question_by_answer["Santiago"]
    assert "capital" in question_by_answer["Santiago"]
    assert "Geography" not in question_by_answer["Santiago"]
    assert "area (land)" in question_by_answer["743,812 sq km"]


@pytest.mark.parametrize("line", ["no colon here", "Url: ", "X: y", "12: twelve", "A" * 60 + ": long field"])
def test_lines_that_are_no_fact_are_passed_over(line):
    assert not list(examples.fields_of(line))


def test_demonstrations_are_right_and_of_the_sft_split_only():
    rows = examples.demonstrations(TASK, 200, 0.1, seed=3)
    assert sum(row["split"] == "validation" for row in rows) == 20
    for row in rows:
        _, question, answer = json.loads(row["messages"])
        assert split_of(question["content"]) == "sft"
        assert eval(question["content"].rstrip("=")) == int(answer["content"])


def test_asking_for_more_demonstrations_than_there_are_gives_all():
    assert len(examples.demonstrations(TaskSettings(min_terms=2, max_terms=2), 10_000, 0.1, 0)) < 200


def test_pick_depends_on_seed_and_id_alone_and_drops_repeats():
    rows = list(examples.chats([{**DOCUMENT, "title": f"Land {i}: Facts"} for i in range(30)]))
    once, again = examples.pick(rows, 10, 1), examples.pick([*reversed(rows), *rows], 10, 1)
    assert once == again
    assert once != examples.pick(rows, 10, 2)
    assert len({row["id"] for row in once}) == 10


def test_a_source_without_validation_gives_some():
    rows = [{"id": str(i), "split": "train"} for i in range(40)]
    assert sum(row["split"] == "validation" for row in examples.split_train(rows, 0.1)) == 4
    own = [{"id": "a", "split": "train"}, {"id": "b", "split": "validation"}]
    assert examples.split_train(own, 0.1) == own


def test_trajectories_pass_through():
    frame = pl.DataFrame({"id": ["t"], "messages": ["[]"], "tools": ["[]"], "split": ["train"]})
    (row,) = examples.trajectories(frame)
    assert (row["kind"], row["messages"], row["split"]) == ("trajectory", "[]", "train")
