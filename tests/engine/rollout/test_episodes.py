"""A model plays the tool world: turns are read from ids, equal seeds play alike, the enforcer lets no fault pass."""

import pytest

from engine.rollout import episodes
from engine.rollout.episodes import Decoding, play
from engine.rollout.generate import Completion
from engine.text.chat import encode_chat
from engine.text.special import CALLS_BEGIN
from engine.toolworld.messages import assistant, calls_of, tool_call
from engine.toolworld.specs import load_tools
from engine.toolworld.validate import validate_call
from nodes.tooluse.agents import make_agents
from nodes.tooluse.schema import Parameters
from nodes.tooluse.tasks import make_tasks
from tests.nodes import toy
from tests.nodes.evaluate.conftest import base_parameters


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tasks():
    p = Parameters.model_validate(base_parameters("tooluse") | {"tasks": 16})
    return make_tasks(make_agents(p.seed, ["bank", "office"], 8, (2, 2)), p)


def roomy():
    from dataclasses import replace

    from engine.model.model import K2Model

    return K2Model(replace(toy.model().config, max_position_embeddings=4096), 0)


def asked_of(task, content="x"):
    return episodes._Request(0, task, [{"role": "user", "content": content}])


def test_turns_are_read_back_from_the_ids_a_model_writes(monkeypatch, tok, tasks):
    written = assistant("One moment.", [tool_call("get_room", '{"room":"101"}', 0)])
    question = [{"role": "user", "content": "x"}]
    prompt, _ = encode_chat(tok, question, add_generation_prompt=True)
    turn = encode_chat(tok, [*question, written])[0][len(prompt) :]
    how = Decoding(8, 0.0)
    monkeypatch.setattr(episodes, "generate_shared", lambda *a: [Completion(turn, [0.0] * len(turn), False)])
    [read] = episodes.next_turns(roomy(), tok, [asked_of(tasks[0])], how, 0)
    assert (read.message, read.malformed, read.note) == (written, (), "")
    monkeypatch.setattr(episodes, "generate_shared", lambda *a: [Completion(turn[:-4], [0.0], True)])
    [cut] = episodes.next_turns(roomy(), tok, [asked_of(tasks[0])], how, 0)
    assert cut.note == "a turn has no end"
    assert cut.malformed


def test_a_dialogue_beyond_the_context_gets_an_empty_turn(tok, tasks):
    [turn] = episodes.next_turns(toy.model(), tok, [asked_of(tasks[0], "x" * 5000)], Decoding(8, 0.0), 0)
    assert turn.message == {"role": "assistant", "content": ""}
    assert turn.note == "the dialogue exceeds the context"


def test_equal_seeds_play_alike_and_a_repeated_task_is_played_anew(tok, tasks):
    how = Decoding(4, 1.0)
    first, again = (play(roomy(), tok, [tasks[0], tasks[0]], how, seed=1, users_seed=2) for _ in range(2))
    assert first == again
    assert first[0].messages[1] == first[1].messages[1], "the same user"
    assert first[0].turns[0].completion != first[1].turns[0].completion, "other draws"


def test_under_the_enforcer_whatever_an_untrained_model_calls_is_legal(tok, tasks):
    """The head is rigged to open a section of calls; what follows is the untrained model's."""
    model, opening = roomy(), tok.special(CALLS_BEGIN)

    class Opens(episodes.Enforcer):
        def mask_(self, logits_BV, rows):
            for line, row in enumerate(rows):
                if self.rows[row].place == "free":
                    logits_BV[line] = float("-inf")
                    logits_BV[line, opening] = 0.0
            super().mask_(logits_BV, rows)

    calls = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "Enforcer", Opens)
        requests = [episodes._Request(i, task, [{"role": "user", "content": "x"}]) for i, task in enumerate(tasks)]
        for turn, one in zip(episodes.next_turns(model, tok, requests, Decoding(400, 1.0, True), 3), requests):
            if turn.completion.truncated:
                continue
            assert turn.malformed == ()
            for call in calls_of(turn.message):
                assert validate_call(load_tools()[call["function"]["name"]], call["function"]["arguments"]) == []
                assert call["function"]["name"] in one.task.tools
                calls += 1
    assert calls >= 4
