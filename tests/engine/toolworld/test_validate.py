"""Validity of calls as a model writes them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toolworld import load_tools, validate_call

SEND = load_tools()["send_money"]


def test_a_good_call_has_no_problems():
    assert validate_call(SEND, '{"from": "Anna", "to": "Ben", "amount": 3}') == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"from": "Anna"', "not JSON"),
        ("", "not JSON"),
        ("[1]", "not of type 'object'"),
        ("null", "not of type 'object'"),
        ('{"from": "Anna", "to": "Ben"}', "'amount' is a required property"),
        ('{"from": "Anna", "to": "Ben", "amount": "3"}', "'3' is not of type 'integer'"),
        ('{"from": "Anna", "to": "Ben", "amount": true}', "True is not of type 'integer'"),
        ('{"from": "Anna", "to": "Ben", "amount": 3, "why": "fun"}', "'why' was unexpected"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_problems_are_named(text, says):
    assert says in " ".join(validate_call(SEND, text))


def test_an_unknown_tool_is_a_problem():
    assert validate_call(None, "{}") == ["no such tool"]


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_judged_without_an_exception(value):
    good = isinstance(value, dict) and value.keys() == {"from", "to", "amount"}
    assert good or validate_call(SEND, json.dumps(value))
