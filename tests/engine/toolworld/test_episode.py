"""Episodes with agents that write anything: never an exception, never a pass, and the same bytes again."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.toolworld import Checkpoint, Goal, Step, Task, World, run_episode
from engine.toolworld.messages import assistant, calls_made, tool_call

ROOM = next(iter(World("hotel", 1).state["rooms"]))
TASK = Task(
    "a", "hotel", "You are a hotel clerk.", ("get_room", "book_room", "list_rooms"), 1,
    (Goal("set", ("Do a thing that no tool does.",), (Step("free_room", {"room": ROOM}),), "done", (ROOM,), "",
          checkpoints=(Checkpoint("rooms", ROOM, {"status": "free"}),)),),
    "simple", 6, id="t",
)  # fmt: skip

arguments = st.one_of(
    st.text(max_size=12),
    st.dictionaries(st.sampled_from(["room", "guest", "status", "x"]), st.text(max_size=4) | st.integers()).map(
        json.dumps
    ),
    st.sampled_from([json.dumps({"room": ROOM}), json.dumps({"status": "free"}), '{"room": 1e999}', "NaN", "[]"]),
)
turns = st.lists(
    st.tuples(
        st.text(max_size=20), st.lists(st.tuples(st.sampled_from([*TASK.tools, "fly", ""]), arguments), max_size=3)
    ),
    max_size=8,
)


@given(turns)
@settings(max_examples=80, deadline=None)
def test_an_agent_may_write_anything(lines):
    def play():
        script = list(lines)

        def agent(messages, tools):
            text, calls = script.pop(0) if script else ("", [])
            start = calls_made(messages)
            return assistant(text, [tool_call(name, text, start + i) for i, (name, text) in enumerate(calls)])

        return run_episode(TASK, agent, 3)

    messages, verdict = play()
    assert not verdict.passed
    assert 0 <= verdict.score < 1
    assert (messages, verdict) == play()
    call_ids = [call["id"] for message in messages for call in message.get("tool_calls", [])]
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == call_ids


def test_an_agent_without_content_is_a_silent_agent():
    _, verdict = run_episode(TASK, lambda messages, tools: {"role": "assistant", "content": None}, 0)
    assert "finished: the last message is not an answer" in verdict.reasons
