"""Kimi K2's chat format (k2-facts 8.3): turn messages into text or ids, and a model's turn back into tool calls.

The format is written down twice: in `chat_template.jinja`, which serving software reads, and here, where each piece
knows whether it is a special token and whether it is trained on. Tests check that both agree.

Messages and tools are OpenAI's. A call's id is `functions.{name}:{index}`, the index counting the calls of the whole
dialogue from 0 (`call_ids.normalise_call_ids` makes it so).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.errors import UserError
from engine.strict_json import load_object
from engine.text.special import (
    CALL_ARGUMENT,
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    IM_ASSISTANT,
    IM_END,
    IM_MIDDLE,
    IM_SYSTEM,
    IM_USER,
    TOOL_TOKENS,
    unspelled,
)
from engine.text.tokenizer import K2Tokenizer

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")
DEFAULT_SYSTEM: Final = "You are Kimi, an AI assistant created by Moonshot AI."
_MARKER: Final = {"user": IM_USER, "assistant": IM_ASSISTANT}
_CALL_ID: Final = re.compile(r"functions\.(?P<name>.+):(?P<index>\d+)", re.DOTALL)
_TOOL_MARKS: Final = re.compile("(" + "|".join(map(re.escape, TOOL_TOKENS)) + ")")


class Piece(NamedTuple):
    """A part of a rendered dialogue: one special token, or ordinary text."""

    text: str
    special: bool
    trained: bool


def _text_of(message: Message) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


def _turn(marker: str, name: str, body: Iterable[Piece], trained: bool) -> list[Piece]:
    head = [Piece(marker, True, False), Piece(name, False, False), Piece(IM_MIDDLE, True, False)]
    return [*head, *body, Piece(IM_END, True, trained)]


def _calls(calls: Sequence[Mapping[str, Any]]) -> list[Piece]:
    pieces = [Piece(CALLS_BEGIN, True, True)]
    for call in calls:
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        pieces += [
            Piece(CALL_BEGIN, True, True),
            Piece(call["id"], False, True),
            Piece(CALL_ARGUMENT, True, True),
            Piece(arguments, False, True),
            Piece(CALL_END, True, True),
        ]
    return [*pieces, Piece(CALLS_END, True, True)]


def _message(message: Message) -> list[Piece]:
    role = str(message["role"])
    trained = role == "assistant"
    text = _text_of(message)
    if role == "tool":
        text = f"## Return of {message['tool_call_id']}\n{text}"
    body = [Piece(text, False, trained)]
    if trained and message.get("tool_calls"):
        body += _calls(message["tool_calls"])
    return _turn(_MARKER.get(role, IM_SYSTEM), str(message.get("name") or role), body, trained)


def pieces(
    messages: Sequence[Message], tools: Sequence[Tool] | None = None, add_generation_prompt: bool = False
) -> list[Piece]:
    """Return the dialogue as pieces: the tool declaration first, then a system turn, then the messages.

    Raises UserError if a message lacks a field of the format.
    """
    out: list[Piece] = []
    if tools:
        declared = json.dumps(list(tools), ensure_ascii=False, separators=(",", ":"))
        out += _turn(IM_SYSTEM, "tool_declare", [Piece(declared, False, False)], trained=False)
    if messages and messages[0].get("role") != "system":
        out += _turn(IM_SYSTEM, "system", [Piece(DEFAULT_SYSTEM, False, False)], trained=False)
    for i, message in enumerate(messages):
        try:
            out += _message(message)
        except (KeyError, TypeError) as error:
            raise UserError(f"messages[{i}] is not an OpenAI chat message: {error!r} is missing or wrong.") from None
    if add_generation_prompt:
        out += _turn(IM_ASSISTANT, "assistant", (), trained=False)[:-1]
    return out


def render(
    messages: Sequence[Message], tools: Sequence[Tool] | None = None, add_generation_prompt: bool = False
) -> str:
    """Return the dialogue as one string, equal to what chat_template.jinja gives.

    The string is for people and for servers, which interpret special tokens anywhere in it: a word joiner breaks those
    that a message spells out. To feed a model, use `encode_chat`, which never makes them special.
    """
    rendered = pieces(messages, tools, add_generation_prompt)
    return "".join(piece.text if piece.special else unspelled(piece.text) for piece in rendered)


def encode_chat(
    tokenizer: K2Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[bool]]:
    """Return the ids of the dialogue and, for each id, whether it is a target of the loss.

    Targets are the assistant's body, its tool calls and its `<|im_end|>`; not its header, which the serving side
    writes. With `add_generation_prompt` the ids end in the assistant's header: a prompt to sample from.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for piece in pieces(messages, tools, add_generation_prompt):
        new = [tokenizer.special(piece.text)] if piece.special else tokenizer.encode(piece.text)
        ids += new
        mask += [piece.trained] * len(new)
    return ids, mask


@dataclass(frozen=True)
class ToolCall:
    """One call as the model wrote it; `arguments` is the JSON text itself, valid or not."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any] | None:
        """Return the arguments as an object, or None if they are not the strict JSON of one."""
        return load_object(self.arguments)


@dataclass(frozen=True)
class ParsedTurn:
    """An assistant's turn: the text before the calls, the complete calls, and problems found in the rest."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    problems: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """Return the turn as an OpenAI message, to be appended to the dialogue."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.calls
            ]
        return message


def _parse_call(header: str, arguments: str, problems: list[str]) -> ToolCall:
    match = _CALL_ID.fullmatch(header)
    if match is None:
        problems.append(f"call id {header!r} is not functions.name:index")
    call = ToolCall(header, match["name"] if match else "", arguments)
    if call.parsed() is None:
        problems.append(f"the arguments of {header!r} are not a JSON object")
    return call


# The only legal successors of each mark; None is the start or the end of the turn.
_NEXT: Final[dict[str | None, tuple[str | None, ...]]] = {
    None: (CALLS_BEGIN, None),
    CALLS_BEGIN: (CALL_BEGIN,),
    CALL_BEGIN: (CALL_ARGUMENT,),
    CALL_ARGUMENT: (CALL_END,),
    CALL_END: (CALL_BEGIN, CALLS_END),
    CALLS_END: (None,),
}


def _parse(parts: Sequence[tuple[str | None, str]]) -> ParsedTurn:
    """Parse (mark, text after it) pairs, the first mark being None; stop at the first mark out of place."""
    calls: list[ToolCall] = []
    problems: list[str] = []
    for i, (mark, text) in enumerate(parts):
        following = parts[i + 1][0] if i + 1 < len(parts) else None
        if mark in (CALLS_BEGIN, CALL_END, CALLS_END) and text.strip():
            problems.append(f"stray text after {mark}")
        if following not in _NEXT[mark]:
            problems.append(f"{following or 'the end of the turn'} follows {mark or 'the text'}")
            break
        if mark == CALL_ARGUMENT:
            calls.append(_parse_call(parts[i - 1][1], text, problems))
    return ParsedTurn(parts[0][1], tuple(calls), tuple(problems))


def parse_tool_calls(text: str) -> ParsedTurn:
    """Parse an assistant's turn, given as the text after its header: the inverse of `render`. Never raises.

    A closing `<|im_end|>` and what follows it are dropped. Call indices may count over the dialogue (paper) or over
    the turn (seen in the wild). Complete calls before a fault are kept and the fault is named.
    """
    split = _TOOL_MARKS.split(text.split(IM_END, 1)[0])
    return _parse([(None, split[0]), *zip(split[1::2], split[2::2], strict=True)])


def parse_turn_ids(tokenizer: K2Tokenizer, ids: Sequence[int]) -> ParsedTurn:
    """Parse sampled ids like `parse_tool_calls`; exact even where ordinary text spells a special token."""
    marks = {tokenizer.special(name): name for name in TOOL_TOKENS}
    parts: list[tuple[str | None, list[int]]] = [(None, [])]
    for i in ids:
        if i == tokenizer.im_end_id:
            break
        if i in marks:
            parts.append((marks[i], []))
        else:
            parts[-1][1].append(i)
    return _parse([(mark, tokenizer.decode(body)) for mark, body in parts])
