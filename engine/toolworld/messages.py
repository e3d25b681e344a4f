"""Dialogue messages in OpenAI's format, and the small readings of them that policy, episode and judge share."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.strict_json import load_object

Message = dict[str, Any]
AgentFn = Callable[[list[Message], list[dict[str, Any]]], Message]
"""An agent: (messages so far, OpenAI tool objects) -> its next assistant message."""
_WORD = re.compile(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*")


def tool_call(name: str, arguments_json: str, index: int) -> dict[str, Any]:
    """One call; `index` counts all calls of the dialogue from 0 (K2 paper, App. B)."""
    return {
        "id": f"functions.{name}:{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments_json},
    }


def assistant(content: str, calls: Sequence[dict[str, Any]] = ()) -> Message:
    """An assistant turn: text, calls or both."""
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return message


def tool_message(call: dict[str, Any], content: str) -> Message:
    """The answer to one call."""
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}


def compact(value: Any) -> str:
    """JSON without spaces, which is how arguments and results are written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The tool calls of a message; none for a message without."""
    return list(message.get("tool_calls") or [])


def calls_made(messages: Sequence[Message]) -> int:
    """How many calls the dialogue holds so far, which is the next call's index."""
    return sum(len(calls_of(message)) for message in messages)


def all_calls(messages: Sequence[Message]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(position of the message, call) of every call in order."""
    for position, message in enumerate(messages):
        for call in calls_of(message):
            yield position, call


def is_text(message: Message) -> bool:
    """Whether this is an assistant's turn that speaks to the user."""
    return message["role"] == "assistant" and not calls_of(message)


def parsed_arguments(call: dict[str, Any]) -> dict[str, Any] | None:
    """Return the call's arguments, or None when they are not the strict JSON of an object."""
    return load_object(call["function"]["arguments"])


def words(text: str) -> set[str]:
    """The words and numbers of `text`, lower case; "a.txt" is one word, a full stop belongs to none."""
    return {word.lower() for word in _WORD.findall(text)}
