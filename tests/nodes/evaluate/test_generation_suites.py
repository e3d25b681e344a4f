"""arithmetic, tools, samples and the lockstep of episodes."""

import re

import polars as pl
import pytest

from engine.errors import UserError
from engine.rollout import passrate
from engine.rollout.generate import Completion
from engine.text.chat import encode_chat
from engine.toolworld.keyed import keyed_random
from engine.toolworld.messages import assistant, tool_call
from engine.toolworld.policy import TemplatePolicy
from engine.toolworld.user import load_personas
from nodes.evaluate.suites import arithmetic, samples, tools
from nodes.evaluate.suites.lockstep import play_in_lockstep
from nodes.evaluate.suites.material import Material


def rig(monkeypatch, tok, reply, end=True):
    """Let every sum be answered by `reply(value)`."""

    def generate(model, prompts, max_new_tokens, temperature, seed, stop_id):
        out = []
        for prompt in prompts:
            question = re.findall(r"[\d+-]+(?==)", tok.decode(prompt))[-1]
            tokens = tok.encode(reply(eval(question))) + ([stop_id] if end else [])
            out.append(Completion(tokens, [0.0] * len(tokens), not end))
        return out

    monkeypatch.setattr(passrate, "generate", generate)


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


def with_agents(monkeypatch, agents):
    """Let episode i be played by agents[i]; an episode is known by its opening, first seen in the episodes' order."""
    episodes: dict = {}

    def answer_all(model, tok, asked, p):
        turns = []
        for messages, offered in asked:
            number = episodes.setdefault((messages[0]["content"], messages[1]["content"]), len(episodes))
            turns.append(tools.Turn(agents[number](messages, offered)))
        return turns

    monkeypatch.setattr(tools, "answer_all", answer_all)


def test_a_perfect_agent_scores_1_on_every_row(monkeypatch, tok, data, p, tiny):
    tasks = tools.held_out_tasks(data.tasks, p)
    with_agents(monkeypatch, [scripted(task, p) for task in tasks])
    result = tools.run(tiny, tok, data, p)
    assert [(row.metric, row.value) for row in result.rows] == [
        ("tools/success", 1.0), ("tools/valid", 1.0), ("tools/well_formed", 1.0),
    ]  # fmt: skip
    assert result.details["mean_score"] == 1.0


def test_a_silent_agent_scores_0_on_every_row(monkeypatch, tok, data, p, tiny):
    monkeypatch.setattr(
        tools, "answer_all", lambda model, tok, asked, p: [tools.Turn(assistant("I cannot.")) for _ in asked]
    )
    assert [row.value for row in tools.run(tiny, tok, data, p).rows] == [0.0, 0.0, 0.0]


def test_a_well_formed_call_of_an_unknown_tool_is_not_valid(monkeypatch, tok, data, p, tiny):
    def answer_all(model, tok, asked, p):
        calls = [
            assistant("", [tool_call("no_such_tool", "{}", 0)]) if len(m) == 2 else assistant("Done.") for m, _ in asked
        ]
        return [tools.Turn(message) for message in calls]

    monkeypatch.setattr(tools, "answer_all", answer_all)
    result = tools.run(tiny, tok, data, p)
    assert [result.row(f"tools/{name}").value for name in ("success", "valid", "well_formed")] == [0.0, 0.0, 1.0]


def test_turns_are_read_back_from_the_ids_a_model_writes(monkeypatch, tok, data, p, tiny):
    written = assistant("One moment.", [tool_call("get_room", '{"room":"101"}', 0)])
    prompt, _ = encode_chat(tok, [{"role": "user", "content": "x"}], add_generation_prompt=True)
    whole, _ = encode_chat(tok, [{"role": "user", "content": "x"}, written])
    turn = whole[len(prompt) :]
    monkeypatch.setattr(tools, "generate", lambda *a: [Completion(turn, [0.0] * len(turn), False)])
    [read] = tools.answer_all(tiny, tok, [([{"role": "user", "content": "x"}], [])], p)
    assert read == tools.Turn(written)
    monkeypatch.setattr(tools, "generate", lambda *a: [Completion(turn[:-4], [0.0], True)])
    [cut] = tools.answer_all(tiny, tok, [([{"role": "user", "content": "x"}], [])], p)
    assert cut.note == "a turn has no end"
    assert cut.malformed


def test_a_dialogue_beyond_the_context_gets_an_empty_turn(tok, p, tiny):
    long = [{"role": "user", "content": "x" * 5000}]
    [turn] = tools.answer_all(tiny, tok, [(long, [])], p)
    assert turn.message == {"role": "assistant", "content": ""}
    assert turn.note == "the dialogue exceeds the context"


def test_tools_of_an_untrained_model_run_and_repeat(tok, data, p, tiny):
    first = tools.run(tiny, tok, data, p)
    assert first == tools.run(tiny, tok, data, p)
    assert first.row("tools/success").value == 0.0
    assert first.row("tools/success").n == 3


def test_a_split_without_tasks_is_refused_by_field(data, p):
    empty = Material(data.shards, data.documents, data.tasks.filter(pl.lit(False)))
    with pytest.raises(UserError, match=r"evaluate\.tools\.split"):
        tools.held_out_tasks(empty.tasks, p)


def test_samples_are_kept_in_the_order_asked(tok, data, p, tiny):
    found = samples.run(tiny, tok, data, p).details["samples"]
    assert [(s["kind"], s["prompt"]) for s in found] == [
        ("Text to go on from", "Chile - "), ("Question in the chat format", "4-1-7="),
    ]  # fmt: skip
    assert all(isinstance(s["response"], str) for s in found)


def test_control_characters_are_written_out():
    assert samples.visible("a\tb\n\x1b[31m\x00é\ufffd") == "a\tb\n\\x1b[31m\\x00é\ufffd"


def test_lockstep_asks_all_waiting_episodes_at_once_in_their_order():
    rounds = []

    def answer_all(requests):
        rounds.append(list(requests))
        return [request * 10 for request in requests]

    def episode(number, turns):
        return lambda ask: [ask(number) for _ in range(turns)]

    lengths = [3, 1, 0, 2]
    outcomes = play_in_lockstep([episode(i, n) for i, n in enumerate(lengths)], answer_all)
    assert outcomes == [[0, 0, 0], [10], [], [30, 30]]
    assert rounds == [[0, 1, 3], [0, 3], [0]]


def test_lockstep_of_nothing_is_nothing():
    assert play_in_lockstep([], lambda requests: requests) == []


@pytest.mark.parametrize("where", ["episode", "answers"])
def test_an_error_ends_all_episodes_and_is_raised(where):
    def waits(ask):
        return ask(1)

    def fails(ask):
        raise KeyError("episode")

    def answer_all(requests):
        raise KeyError("answers")

    with pytest.raises(KeyError, match=where):
        play_in_lockstep([waits, waits, fails] if where == "episode" else [waits, waits], answer_all)
