"""The stage from parameters to judged trajectories: counts, reproducibility, splits, refusals."""

import hashlib
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.artifacts.tables import polars_schema
from engine.errors import UserError
from engine.toolworld import Task, TemplatePolicy, load_tools, persona, run_episode, validate_call
from engine.toolworld.messages import all_calls
from nodes.tooluse import nodes, schema
from nodes.tooluse.schema import Parameters, Split
from nodes.tooluse.tasks import split_of
from tests.nodes.sharded import assert_shards_do_not_matter

ROOT = Path(__file__).parents[3]
BASE = yaml.safe_load((ROOT / "conf/base/parameters/tooluse.yml").read_text())["tooluse"]
SMALL = {
    **BASE, "tasks": 120, "agents": 20, "tools_per_agent": [2, 3], "episodes_per_task": 2, "impossible": 0.12,
    "difficulty": {"simple": 0.5, "medium": 0.35, "complex": 0.15},
    "defects": {name: 3 * share for name, share in BASE["defects"].items()},
}  # fmt: skip
"""A world with all that there is in it: the base file's is made for a small model, simple tasks above all."""


def run_stage(parameters, workspace):
    tools = nodes.build_tools(parameters)
    agents = nodes.build_agents(tools.lazy(), parameters)
    tasks = nodes.build_tasks(agents.lazy(), parameters)
    passing, rejected, metrics = nodes.build_trajectories(tasks.lazy(), parameters, workspace)
    return tools, agents, tasks, passing.collect(), rejected.collect(), metrics


def digest(frame):
    return hashlib.blake2b(frame.write_json().encode()).hexdigest()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return run_stage(SMALL, tmp_path_factory.mktemp("stage"))


def test_the_counts_the_issue_asks_for(stage):
    tools, agents, tasks, trajectories, rejected, metrics = stage
    assert tools.height >= 40
    assert tools["domain"].n_unique() == agents["domain"].n_unique() == 8
    assert agents.height == 20
    assert tasks.height >= 100
    assert set(tasks["difficulty"]) == {"simple", "medium", "complex"}
    assert trajectories.height + rejected.height == metrics["episodes"]
    assert 0.7 < metrics["pass_rate"] < 0.97
    assert BASE["tasks"] * BASE["episodes_per_task"] * metrics["pass_rate"] > 1000


def test_tables_have_their_schemas_and_keys(stage):
    tools, agents, tasks, trajectories, rejected, _ = stage
    for frame, wanted in zip(stage, (schema.TOOLS, schema.AGENTS, schema.TASKS, *[schema.TRAJECTORIES] * 2)):
        assert frame.schema == polars_schema(wanted)
        assert frame[next(iter(wanted))].is_unique().all()
    played = pl.concat([trajectories, rejected])
    assert set(played["task_id"]) == set(tasks.filter(pl.col("split") != "rl")["id"]), "those are for rewards"
    assert set(played["agent_id"]) <= set(agents["id"])
    assert {name for subset in agents["tools"] for name in subset} <= set(tools["name"])


def test_the_judge_catches_what_was_planted_and_nothing_else(stage):
    *_, trajectories, rejected, metrics = stage
    assert metrics["defects_planted"] == metrics["defects_caught"] == rejected.height
    assert metrics["clean_rejected"] == 0
    for verdict in map(json.loads, trajectories["verdict"]):
        assert verdict["passed"]
        assert not verdict["planted_defect"]
    for verdict in map(json.loads, rejected["verdict"]):
        assert verdict["reasons"]
        assert verdict["planted_defect"]


def test_kept_trajectories_hold_valid_openai_messages_that_fit_a_small_context(stage):
    *_, trajectories, _, _ = stage
    lengths = []
    for row in trajectories.iter_rows(named=True):
        messages, tools = json.loads(row["messages"]), json.loads(row["tools"])
        names = {tool["function"]["name"] for tool in tools}
        assert messages[0]["role"] == "system"
        assert messages[-1]["role"] == "assistant"
        assert 1 <= len(tools) <= 3
        for number, (_, call) in enumerate(all_calls(messages)):
            assert call["id"] == f"functions.{call['function']['name']}:{number}"
            assert call["function"]["name"] in names
            assert validate_call(load_tools()[call["function"]["name"]], call["function"]["arguments"]) == []
        answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
        assert answered == [call["id"] for _, call in all_calls(messages)]
        lengths.append(len(row["messages"]) + len(row["tools"]))
    # About 3.9 characters of this JSON make one token of a 4,096-token vocabulary trained beside it.
    assert sorted(lengths)[int(0.9 * len(lengths))] < 2200


def test_a_rerun_is_byte_identical_and_another_seed_is_not(stage, tmp_path):
    again = run_stage(SMALL, tmp_path)
    assert [digest(frame) for frame in again[:5]] == [digest(frame) for frame in stage[:5]]
    assert again[5] == stage[5]
    other = nodes.build_tasks(nodes.build_agents(stage[0].lazy(), {**SMALL, "seed": 1}).lazy(), {**SMALL, "seed": 1})
    assert digest(other) != digest(stage[2])


def test_shards_do_not_matter(stage, tmp_path):
    size = "nodes.tooluse.trajectories.TASKS_A_BLOCK", 16
    assert_shards_do_not_matter(nodes.build_trajectories, (stage[2].lazy(), SMALL), tmp_path, "played/*.parquet", size)


def test_more_tasks_leave_the_earlier_ones_as_they_were(stage):
    fewer = nodes.build_tasks(stage[1].lazy(), {**SMALL, "tasks": 50})
    assert fewer.equals(stage[2].head(50))


def test_splits_are_disjoint_by_instruction_and_about_as_large_as_requested():
    parameters = {**SMALL, "tasks": 400, "split": BASE["split"]}
    tools = nodes.build_tools(parameters)
    tasks = nodes.build_tasks(nodes.build_agents(tools.lazy(), parameters).lazy(), parameters)
    by_split = {split: set(group["instruction"]) for (split,), group in tasks.group_by("split")}
    assert set(by_split) == {"train", "rl", "validation", "test"}
    assert not any(by_split[one] & by_split[other] for one, other in combinations(by_split, 2))
    for split, share in BASE["split"].items():
        assert abs(Counter(tasks["split"])[split] / 400 - share) < 0.08


@given(text=st.text(), train=st.floats(0.1, 0.8), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_split_depends_on_the_words_alone(text, train, share):
    rest = 1 - train
    split = Split(train=train, rl=rest * share / 2, validation=rest * share / 2, test=rest * (1 - share))
    assert split_of(text, split) == split_of(text, split) in {"train", "rl", "validation", "test"}


def test_every_task_can_be_served_whoever_asks(stage):
    for row in stage[2].head(60).iter_rows(named=True):
        task = Task.from_row(row)
        for who in BASE["personas"]:
            _, verdict = run_episode(task, TemplatePolicy(task, persona(who), 3), 3, persona(who))
            assert verdict.passed, (task.instruction, who, verdict.reasons)


def test_domains_can_be_chosen(stage):
    tools = nodes.build_tools({**SMALL, "domains": ["hotel", "files"]})
    assert set(tools["domain"]) == {"hotel", "files"}
    agents = nodes.build_agents(tools.lazy(), {**SMALL, "agents": 4})
    assert agents["domain"].to_list() == ["hotel", "files"] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"domains": ["moon"]}, "domains: 'moon' is not a domain; choose among bank"),
        ({"generator": "local"}, "generator: 'local' is not available in this stage; use template"),
        ({"personas": ["grumpy"]}, "personas: 'grumpy' is not a persona"),
        ({"defects": {"sloth": 0.1}}, "defects: 'sloth' is not a defect"),
    ],
)
def test_names_that_do_not_exist_are_one_sentence(change, says):
    with pytest.raises(UserError, match=says):
        nodes.build_tools({**SMALL, **change})


def test_more_tasks_than_there_are_is_one_sentence():
    tools = nodes.build_tools({**SMALL, "domains": ["home"]})
    parameters = {**SMALL, "domains": ["home"], "agents": 1, "tools_per_agent": [1, 1], "tasks": 5000}
    agents = nodes.build_agents(tools.lazy(), parameters)
    with pytest.raises(UserError, match="ask for fewer tasks"):
        nodes.build_tasks(agents.lazy(), parameters)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": 0}, "tasks"),
        ({"taskz": 3}, "taskz"),
        ({"tools_per_agent": [3, 2]}, "fewest"),
        ({"split": {"train": 0.5, "rl": 0.1, "validation": 0.1, "test": 0.1}}, "add up to 1"),
        ({"faults": {"busy": 0.6, "partial": 0.6, "most": 2}}, "at most 1"),
        ({"defects": {"gave_up": 1.2}}, "together at most 1"),
        ({"difficulty": {"simple": 0, "medium": 0, "complex": 0}}, "above 0"),
        ({"generator": "oracle"}, "template"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(change, says):
    with pytest.raises(ValidationError, match=says):
        Parameters.model_validate({**SMALL, **change})
