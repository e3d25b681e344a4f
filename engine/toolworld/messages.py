"""Build and read dialogue messages in OpenAI's format, for policy, episode and judge."""

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
    """Return one call; `index` counts all calls of the dialogue from 0 (K2 paper, App. B)."""
    return {
        "id": f"functions.{name}:{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments_json},
    }


def assistant(content: str, calls: Sequence[dict[str, Any]] = ()) -> Message:
    """Return an assistant turn with text, calls or both."""
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return message


def tool_message(call: dict[str, Any], content: str) -> Message:
    """Return the message with the result of one call."""
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}


def compact(value: Any) -> str:
    """Return JSON without spaces, the form in which arguments and results are written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def calls_of(message: Message) -> list[dict[str, Any]]:
    """Return the tool calls of a message; an empty list for a message without calls."""
    return list(message.get("tool_calls") or [])


def calls_made(messages: Sequence[Message]) -> int:
    """Return how many calls the dialogue has so far, which is the index of the next call."""
    return sum(len(calls_of(message)) for message in messages)


def all_calls(messages: Sequence[Message]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (position of the message, call) for every call in order."""
    for position, message in enumerate(messages):
        for call in calls_of(message):
            yield position, call


def is_text(message: Message) -> bool:
    """Return whether this is an assistant's turn without calls, addressed to the user."""
    return message["role"] == "assistant" and not calls_of(message)


def parsed_arguments(call: dict[str, Any]) -> dict[str, Any] | None:
    """Return the call's arguments, or None if they are not a JSON object in strict JSON."""
    return load_object(call["function"]["arguments"])


def words(text: str) -> set[str]:
    """Return the words and numbers of `text` in lower case; "a.txt" is one word, a final full stop is left out."""
    return {word.lower() for word in _WORD.findall(text)}
