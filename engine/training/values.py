"""The tokens by which a dialogue with tools is decided: values taken over from the user's words or a tool's result.

A dialogue of 170 tokens holds four or five of them; all others are form. A loss on all of them teaches the form within
a hundred steps and hides the values in its noise, so the values get a loss of their own (docs/LOG.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.strict_json import load_object
from engine.text.special import CALL_ARGUMENT, CALL_BEGIN
from engine.text.tokenizer import K2Tokenizer

Message = Mapping[str, Any]


def value_targets(
    tokenizer: K2Tokenizer, messages: Sequence[Message], ids: Sequence[int], mask: Sequence[bool]
) -> list[bool]:
    """Return which of the targets in `mask` spell a value of the dialogue: an argument, or what a tool returned.

    A call's name and number never count: they lie between the marks that begin a call and its arguments.
    """
    spelling = value_tokens(tokenizer, messages)
    begin, argument = tokenizer.special(CALL_BEGIN), tokenizer.special(CALL_ARGUMENT)
    targets, in_header = [], False
    for token, is_target in zip(ids, mask, strict=True):
        in_header = token == begin or (in_header and token != argument)
        targets.append(is_target and not in_header and token in spelling)
    return targets


def value_tokens(tokenizer: K2Tokenizer, messages: Sequence[Message]) -> set[int]:
    """Return the tokens that spell the dialogue's values, each alone, after a space and after a quotation mark."""
    quotation = set(tokenizer.encode('"'))
    spelling: set[int] = set()
    for word in {word for value in _values(messages) for word in str(value).split()}:
        for written in (word, f" {word}", f'"{word}'):
            spelling.update(tokenizer.encode(written))
    return spelling - quotation - set(tokenizer.encode(" "))


def _values(messages: Sequence[Message]) -> Iterator[str | int | float]:
    """Yield the texts and numbers in calls' arguments and tools' results; what is not strict JSON has none."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            yield from _leaves(load_object(call["function"]["arguments"]))
        if message["role"] == "tool":
            yield from _leaves(load_object(message["content"]))


def _leaves(value: Any) -> Iterator[str | int | float]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif value is not None and not isinstance(value, bool):
        yield value
