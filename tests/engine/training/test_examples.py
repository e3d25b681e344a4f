"""Batches of examples: the loss mask, epochs without replacement, purity, and refusals."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.parallel.data import ALONE
from engine.training.examples import Encoded, encode, places, require
from engine.training.padded import kinds_of
from engine.training.sources import Examples
from tests.nodes import toy

MESSAGES = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "4-1="},
    {"role": "assistant", "content": "3"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return toy.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def row(kind="demonstration", messages=MESSAGES):
    return {"id": "row 7", "kind": kind, "messages": json.dumps(messages), "tools": "[]"}


def test_only_the_answer_and_its_end_are_counted(tokenizer):
    ((ids, mask),) = encode([row()], tokenizer, 100).by_kind["demonstration"]
    assert tokenizer.decode([i for i, counted in zip(ids, mask) if counted]) == "3<|im_end|>"


def test_long_examples_are_left_out_and_counted(tokenizer):
    encoded = encode([row(), row(messages=[*MESSAGES[:1], {"role": "user", "content": "x" * 200}])], tokenizer, 50)
    assert encoded.left_out == 1
    assert len(encoded.by_kind["demonstration"]) == 1


def test_calls_of_another_make_are_trained_on_under_their_functions_names(tokenizer):
    def call(name, identity):
        return {"id": identity, "type": "function", "function": {"name": name, "arguments": "{}"}}

    turn = {"role": "assistant", "content": "", "tool_calls": [call("a", "call_9f"), call("b", "call_9f")]}
    results = [{"role": "tool", "tool_call_id": "call_9f", "content": content} for content in ("ra", "rb")]
    ((ids, _),) = encode([row(messages=[*MESSAGES[:2], turn, *results])], tokenizer, 1000).by_kind["demonstration"]
    text = tokenizer.decode(ids)
    assert "<|tool_call_begin|>functions.a:0<" in text
    assert "## Return of functions.b:1\nrb" in text
    with pytest.raises(UserError, match=r"sft_examples, row row 7: messages\[2\] makes 2 calls with the id 'call_9f'"):
        encode([row(messages=[*MESSAGES[:2], turn, *results[:1]])], tokenizer, 1000)


@pytest.mark.parametrize("messages", ["", "[]", "[1]", "[" * 100_000, '[{"role": "user", "content": "\\ud83d"}]'])
def test_an_example_that_cannot_be_read_is_named(tokenizer, messages):
    with pytest.raises(UserError, match="sft_examples, row row 7: messages or tools are not OpenAI's JSON"):
        encode([{**row(), "messages": messages}], tokenizer, 1000)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_every_epoch_takes_each_example_once(n, size, seed):
    steps = -(-2 * n // size)
    drawn = [place for step in range(steps) for place in places(n, "chat", step, size, seed)]
    assert sorted(drawn[:n]) == sorted(drawn[n : 2 * n]) == list(range(n))


def test_a_step_is_a_pure_function():
    encoded = Encoded({"chat": [([i, i], [False, True]) for i in range(9)]}, 0)
    late = Examples(encoded, {"chat": 4, "trajectory": 0}, 1, None).rows(7, ALONE)
    assert kinds_of(late) == ["chat"]
    again, other = (Examples(encoded, {"chat": 4}, seed, None).rows(7, ALONE) for seed in (1, 2))
    assert late["chat/ids"].tolist() == again["chat/ids"].tolist() != other["chat/ids"].tolist()


def test_a_kind_without_examples_is_refused_by_name():
    with pytest.raises(UserError, match=r"sft\.batch\.trajectory"):
        require(Encoded({"chat": [([1], [True])]}, 0), {"chat": 1, "trajectory": 2}, "sft.batch")
