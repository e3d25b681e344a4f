"""The enforcer: every legal call can be written, nothing else can, and the turn ends."""

import random

import pytest

from engine.errors import UserError
from engine.rollout import grammar
from engine.rollout.enforcer import Enforcer
from engine.text.chat import encode_chat, parse_turn_ids
from engine.text.special import CALLS_BEGIN
from engine.toolworld.messages import assistant, compact, tool_call
from engine.toolworld.specs import load_tools
from engine.toolworld.validate import validate_call
from tests.nodes import toy

ADD, SEND = load_tools()["add_order"], load_tools()["send_money"]


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def written(tok, calls):
    """The ids of an assistant turn that holds `calls`, its end included."""
    question = [{"role": "user", "content": "x"}]
    start = len(encode_chat(tok, question, add_generation_prompt=True)[0])
    return encode_chat(tok, [*question, assistant("So.", calls)])[0][start:]


def refused_at(tok, ids, tools=(ADD, SEND), calls=0):
    """The place of the first id that the enforcer would not have let be drawn; None where all pass."""
    enforcer = Enforcer(tok, [(tools, calls)])
    for place, token in enumerate(ids):
        legal = enforcer.legal(0)
        if legal is not None and token not in legal:
            return place
        enforcer.take(0, token)
    return None


def test_legal_calls_can_be_written_alone_and_in_parallel(tok):
    order = tool_call("add_order", compact({"order": "A1", "buyer": "Zoë", "stage": "paid"}), 3)
    money = tool_call("send_money", compact({"from": "Otto", "to": "Ida", "amount": 120}), 4)
    assert refused_at(tok, written(tok, [order, money]), calls=3) is None


@pytest.mark.parametrize(
    ("name", "arguments", "index"),
    [
        ("add_money", {"owner": "Otto", "amount": 1}, 0),  # no tool of this agent
        ("send_money", {"from": "Otto", "to": "Ida", "amount": 120}, 1),  # not the next number
        ("send_money", {"from": "Otto", "to": "Ida", "amount": "120"}, 0),
        ("send_money", {"from": "Otto", "to": "Ida", "amount": 1.5}, 0),
        ("send_money", {"from": "Otto", "amount": 1}, 0),
        ("send_money", {"from": "Otto", "to": "Ida", "amount": 1, "more": 2}, 0),
        ("add_order", {"order": "A1", "buyer": "Ida", "stage": "lost"}, 0),
    ],
)
def test_nothing_else_can(tok, name, arguments, index):
    assert refused_at(tok, written(tok, [tool_call(name, compact(arguments), index)])) is not None


def test_text_before_the_calls_is_free_and_a_turn_may_have_none(tok):
    assert refused_at(tok, [*tok.encode("Anything {"), tok.im_end_id]) is None


@pytest.mark.parametrize("seed", range(8))
def test_any_walk_over_legal_ids_is_a_valid_call(tok, seed):
    """Uniform steps, of which a few would make a string long: those that end it are preferred in the end."""
    rng, enforcer = random.Random(seed), Enforcer(tok, [((ADD, SEND), 0)])
    ids = [tok.special(CALLS_BEGIN)]
    enforcer.take(0, ids[0])
    while ids[-1] != tok.im_end_id:
        legal = enforcer.legal(0)
        ending = [i for i in legal if b'"' in tok.token_bytes(i) or i >= tok.vocab_size - 20]
        ids.append(rng.choice(ending if len(ids) > 60 and ending else legal))
        enforcer.take(0, ids[-1])
        assert len(ids) < 2000
    turn = parse_turn_ids(tok, ids)
    assert turn.problems == ()
    assert turn.calls
    for call in turn.calls:
        assert validate_call(load_tools()[call.name], call.arguments) == []


@pytest.mark.parametrize("text", ["0", "-1", "120", "-0"])
def test_whole_numbers(text):
    schema = {"properties": {"n": {"type": "integer"}}}
    state = grammar.START
    for byte in f'{{"n":{text}}}'.encode():
        state = grammar.step(grammar.arguments(schema), state, byte)
        assert state is not None
    assert state == (3, b"")


@pytest.mark.parametrize("text", ["01", "1.5", "", "-", "+1", "1e3"])
def test_other_numbers_are_refused(text):
    schema = {"properties": {"n": {"type": "integer"}}}
    state = grammar.START
    for byte in f'{{"n":{text}}}'.encode():
        state = state and grammar.step(grammar.arguments(schema), state, byte)
    assert state is None


def test_every_tool_of_the_world_can_be_enforced_and_no_other_type():
    for tool in load_tools().values():
        assert grammar.arguments(tool.parameters)[-1] == (b"}",)
    with pytest.raises(UserError, match="only strings, integers and enums"):
        grammar.arguments({"properties": {"x": {"type": "number"}}})
