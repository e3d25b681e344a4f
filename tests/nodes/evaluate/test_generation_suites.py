"""arithmetic, tools, samples and the lockstep of episodes."""

import re

import polars as pl
import pytest

from engine.errors import UserError
from engine.keyed import keyed_random
from engine.rollout import episodes, passrate
from engine.rollout.generate import Completion
from engine.toolworld.messages import assistant, tool_call
from engine.toolworld.policy import TemplatePolicy
from engine.toolworld.user import load_personas
from nodes.evaluate.suites import arithmetic, samples, tools
from nodes.evaluate.suites.material import Material


def rig(monkeypatch, tok, reply, end=True):
    """Let every sum be answered by `reply(value)`."""

    def generate(model, prompts, max_new_tokens, temperature, seed, stop_id, ranks):
        out = []
        for prompt in prompts:
            question = re.findall(r"[\d+-]+(?==)", tok.decode(prompt))[-1]
            tokens = tok.encode(reply(eval(question))) + ([stop_id] if end else [])
            out.append(Completion(tokens, [0.0] * len(tokens), not end))
        return out

    monkeypatch.setattr(passrate, "generate_shared", generate)


@pytest.mark.parametrize(
    ("reply", "end", "share"), [(str, True, 1.0), (lambda v: str(v + 1), True, 0.0), (str, False, 0.0)]
)
def test_arithmetic_scores_right_wrong_and_unfinished(monkeypatch, tok, data, p, tiny, reply, end, share):
    rig(monkeypatch, tok, reply, end)
    result = arithmetic.run(tiny, tok, data, p)
    assert [row.value for row in result.rows] == [share, share]
    assert [row.n for row in result.rows] == [20, 20]
    assert result.details["unfinished_sampled"] == (0.0 if end else 1.0)


def test_arithmetic_of_an_untrained_model_runs_and_repeats(tok, data, p, tiny):
    first = arithmetic.run(tiny, tok, data, p)
    assert first == arithmetic.run(tiny, tok, data, p)
    assert 0 <= first.row("arithmetic/sampled").value <= 0.2


def test_too_many_prompts_are_refused_by_field(tok, data, p, tiny):
    few = p.model_copy(update={"arithmetic": p.arithmetic.model_copy(update={"prompts": 10**6})})
    with pytest.raises(UserError, match=r"evaluate\.arithmetic\.prompts"):
        arithmetic.run(tiny, tok, data, few)


def test_sums_without_room_for_their_answers_are_refused_by_field(tok, data, p, tiny):
    long = p.model_copy(update={"arithmetic": p.arithmetic.model_copy(update={"max_new_tokens": 2040})})
    with pytest.raises(UserError, match=r"evaluate\.arithmetic\.max_new_tokens with the longest prompt"):
        arithmetic.run(tiny, tok, data, long)


def scripted(task, p, defect=""):
    """The template policy in the persona that `run_episode` will draw for this task."""
    who = keyed_random(p.seed, "persona", task.id).choice(list(load_personas().values()))
    return TemplatePolicy(task, who, p.seed, defect)


def with_agents(monkeypatch, agent_of):
    """Let each episode be played by `agent_of(its task)`."""
    playing: dict = {}

    def next_turns(model, tok, requests, how, seed):
        turns = []
        for one in requests:
            new = len(one.messages) == 2
            agent = playing[one.number] = agent_of(one.task) if new else playing[one.number]
            message = agent(one.messages, one.task.openai_tools())
            turns.append(episodes.Turn([1], Completion([2], [0.0], False), message))
        return turns

    monkeypatch.setattr(episodes, "next_turns", next_turns)


def test_a_perfect_agent_scores_1_on_every_row(monkeypatch, tok, data, p, tiny):
    with_agents(monkeypatch, lambda task: scripted(task, p))
    result = tools.run(tiny, tok, data, p)
    assert [(row.metric, row.value) for row in result.rows] == [
        ("tools/success_sampled", 1.0), ("tools/success_greedy", 1.0), ("tools/success_enforced", 1.0),
        ("tools/valid", 1.0), ("tools/well_formed", 1.0),
    ]  # fmt: skip
    assert result.details["mean_score"] == 1.0
    assert sum(played for _, played in result.details["success_by_domain"].values()) == 3


def test_a_silent_agent_scores_0_on_every_row(monkeypatch, tok, data, p, tiny):
    with_agents(monkeypatch, lambda task: lambda messages, tools: assistant("I cannot."))
    result = tools.run(tiny, tok, data, p)
    assert [row.value for row in result.rows] == [0.0] * 5
    assert result.details["failed_checks"]["tool_pattern"] == 3


def test_a_well_formed_call_of_an_unknown_tool_is_not_valid(monkeypatch, tok, data, p, tiny):
    def agent(messages, tools):
        return assistant("", [tool_call("no_such_tool", "{}", 0)]) if len(messages) == 2 else assistant("Done.")

    with_agents(monkeypatch, lambda task: agent)
    result = tools.run(tiny, tok, data, p)
    assert [result.row(f"tools/{name}").value for name in ("success_greedy", "valid", "well_formed")] == [0.0, 0.0, 1.0]


def test_uniform_legal_calls_stand_beside_the_successes_and_score_little(tok, data, p, tiny):
    many = p.model_copy(update={"tools": p.tools.model_copy(update={"episodes": 40})})
    chance = tools.uniform_success(tools.held_out_tasks(data.tasks, many), p.seed)
    assert 0 <= chance < 0.1
    assert tools.run(tiny, tok, data, p).row("tools/success_sampled").chance is not None


def test_tools_of_an_untrained_model_run_and_repeat(tok, data, p, tiny):
    first = tools.run(tiny, tok, data, p)
    assert first == tools.run(tiny, tok, data, p)
    assert first.row("tools/success_sampled").value == 0.0
    assert first.row("tools/success_sampled").n == 3


def test_a_split_without_tasks_is_refused_by_field(data, p):
    empty = Material(data.shards, data.documents, data.tasks.filter(pl.lit(False)))
    with pytest.raises(UserError, match=r"evaluate\.tools\.split"):
        tools.held_out_tasks(empty.tasks, p)


def test_samples_are_kept_in_the_order_of_the_prompts(tok, data, p, tiny):
    responses = samples.run(tiny, tok, data, p).details["samples"]
    assert [(s["kind"], s["prompt"]) for s in responses] == [
        ("Text to go on from", "Chile - "), ("Question in the chat format", "4-1-7="),
    ]  # fmt: skip
    assert all(isinstance(s["response"], str) for s in responses)


def test_control_characters_are_written_out():
    assert samples.visible("a\tb\n\x1b[31m\x00é\ufffd") == "a\tb\n\\x1b[31m\\x00é\ufffd"
