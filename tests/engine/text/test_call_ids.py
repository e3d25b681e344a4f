"""Call ids in K2's form: counted over the dialogue, each result with its own call, refused where that is open."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UserError
from engine.text.call_ids import call_id, normalise_call_ids


def turn(*calls: tuple[str | None, str]) -> dict[str, Any]:
    """An assistant's turn of calls given as (id, function)."""
    made = [{"id": i, "type": "function", "function": {"name": name, "arguments": "{}"}} for i, name in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(identity: str | None, content: str = "", **more: str) -> dict[str, Any]:
    named = {} if identity is None else {"tool_call_id": identity}
    return {"role": "tool", "content": content, **named, **more}


def answers(messages: list[dict[str, Any]]) -> list[str]:
    return [m["tool_call_id"] for m in normalise_call_ids(messages) if m["role"] == "tool"]


def test_ids_are_counted_over_the_dialogue() -> None:
    before = [turn(("call_a", "f"), ("call_b", "f")), result("call_b"), turn(("call_c", "f"))]
    after = normalise_call_ids(before)
    ids = [c["id"] for m in after for c in m.get("tool_calls", [])]
    assert ids == ["functions.f:0", "functions.f:1", "functions.f:2"]
    assert after[1]["tool_call_id"] == "functions.f:1"
    assert before[0]["tool_calls"][0]["id"] == "call_a"
    assert normalise_call_ids(after) == after


def test_ids_that_restart_each_turn_name_the_latest_call() -> None:
    one = turn(("functions.f:0", "f"))
    assert answers([one, result("functions.f:0"), one, result("functions.f:0")]) == ["functions.f:0", "functions.f:1"]


def test_a_late_result_finds_the_earlier_turn() -> None:
    assert answers([turn(("x", "f")), turn(("y", "g")), result("x"), result("y")]) == ["functions.f:0", "functions.g:1"]


@pytest.mark.parametrize("identity", ["1", "", None])
@pytest.mark.parametrize("names", [("a", "b"), ("f", "f")])
def test_results_of_calls_that_share_an_id_or_have_none_are_paired_in_order(
    identity: str | None, names: tuple[str, str]
) -> None:
    dialogue = [turn(*((identity, name) for name in names)), result(identity, "ra"), result(identity, "rb")]
    assert answers(dialogue) == [call_id(name, index) for index, name in enumerate(names)]


def test_results_without_ids_go_to_calls_that_have_some() -> None:
    assert answers([turn(("x", "a"), ("y", "b")), result(None), result(None)]) == ["functions.a:0", "functions.b:1"]
    assert answers([turn(("x", "a"), ("y", "b")), result("x"), result(None)]) == ["functions.a:0", "functions.b:1"]


def test_names_of_functions_pair_results_that_come_in_another_order() -> None:
    dialogue = [turn(("1", "a"), ("1", "b"), ("1", "a")), *(result("1", name=name) for name in ("b", "a", "a"))]
    assert answers(dialogue) == ["functions.b:1", "functions.a:0", "functions.a:2"]
    assert answers([turn((None, "a"), (None, "b")), result(None, name="b")]) == ["functions.b:1"]


@pytest.mark.parametrize(
    "messages",
    [
        [turn(("1", "a"), ("1", "b")), result("1")],
        [turn(("1", "a"), ("1", "b")), result("1"), result("1"), result("1")],
        [turn(("1", "a"), ("1", "a"), ("1", "b")), result("1", name="a")],
        [turn(("1", "a"), ("1", "b")), result("1", name="b"), result("1", name="b")],
        [turn((None, "a"), (None, "b")), result(None)],
        [turn(("x", "a"), ("y", "b")), result(None)],
        [turn(("x", "a")), result("z")],
        [turn((None, "a")), result("z")],
        [result(None)],
        [result("functions.a:0"), turn(("functions.a:0", "a"))],
    ],
)
def test_a_result_that_no_call_or_several_may_claim_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"messages\[\d\]"):
        normalise_call_ids(messages)


@given(
    st.lists(st.lists(st.sampled_from("fgh"), min_size=1, max_size=3), max_size=4), st.randoms(use_true_random=False)
)
def test_unique_ids_pair_whatever_the_order(functions: list[list[str]], random: Any) -> None:
    dialogue: list[dict[str, Any]] = []
    expected: list[str] = []
    count = 0
    for names in functions:
        numbered = [(f"call_{count + i}", name) for i, name in enumerate(names)]
        count += len(names)
        order = random.sample(numbered, len(numbered))
        dialogue += [turn(*numbered), *(result(identity) for identity, _ in order)]
        expected += [call_id(name, int(identity[5:])) for identity, name in order]
    assert answers(dialogue) == expected
