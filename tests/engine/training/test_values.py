"""The targets that spell a dialogue's values: arguments and results, and no token of the form."""

import json

import pytest

from engine.text.chat import encode_chat
from engine.text.tokenizer import K2Tokenizer
from engine.toolworld.messages import assistant, compact, tool_call, tool_message
from engine.training.examples import encode
from engine.training.values import value_targets


def dialogue(arguments: str, result: str, answer: str) -> list[dict[str, object]]:
    call = tool_call("get_card", arguments, 0)
    return [
        {"role": "user", "content": "What is the limit of card J?"},
        assistant("", [call]),
        tool_message(call, result),
        assistant(answer),
    ]


def spelled(tokenizer: K2Tokenizer, messages: list[dict[str, object]]) -> str:
    ids, mask = encode_chat(tokenizer, messages, [])
    targets = value_targets(tokenizer, messages, ids, mask)
    assert all(counted or not target for counted, target in zip(mask, targets, strict=True))
    text = tokenizer.decode([token for token, target in zip(ids, targets, strict=True) if target])
    return text.replace(" ", "")  # part of a letter's token in large vocabularies only


def test_values_of_calls_and_answers_count_and_nothing_else(tokenizer: K2Tokenizer) -> None:
    messages = dialogue(compact({"card": "J"}), compact({"card": "J", "limit": 75}), "The limit of card J is 75.")
    assert spelled(tokenizer, messages) == "JJ75"


@pytest.mark.parametrize("arguments", ['{"card":"J"', "[1]", '{"card":"J","card":"K"}', "{" * 1000])
def test_arguments_that_are_no_strict_object_have_no_values(tokenizer: K2Tokenizer, arguments: str) -> None:
    assert spelled(tokenizer, dialogue(arguments, "busy", "The limit of card J is 75.")) == ""


def test_the_number_of_a_call_is_no_value(tokenizer: K2Tokenizer) -> None:
    messages = dialogue(compact({"card": "J"}), compact({"limit": 0}), "It is 0.")
    assert spelled(tokenizer, messages) == "J0"


def test_truth_values_and_nothing_are_no_values(tokenizer: K2Tokenizer) -> None:
    messages = dialogue(compact({"card": None}), compact({"ok": True}), "True, nothing, null.")
    assert spelled(tokenizer, messages) == ""


def test_trajectories_are_examples_of_their_values_on_request(tokenizer: K2Tokenizer) -> None:
    messages = dialogue(compact({"card": "J"}), compact({"card": "J", "limit": 75}), "The limit of card J is 75.")
    row = {"id": "t", "kind": "trajectory", "messages": json.dumps(messages), "tools": "[]"}
    assert set(encode([row], tokenizer, 1000).by_kind) == {"trajectory"}
    assert set(encode([row], tokenizer, 1000, values=True).by_kind) == {"trajectory", "values"}
