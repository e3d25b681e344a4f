"""An automaton over bytes for the text of a legal tool call: which ids may come next after what was written.

A text is a sequence of parts: fixed bytes, one of several choices, a whole number, a JSON string. Arguments are compact
JSON with the properties in declared order: other spellings of the same object are not offered.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from engine.errors import UserError
from engine.text.tokenizer import K2Tokenizer

Part = tuple[bytes, ...] | Literal["integer", "string"]
"""The choices of a fixed part, or the kind of a free one."""
Text = tuple[Part, ...]
State = tuple[int, bytes]
"""The part's index and the bytes of it so far; of a string or an integer, just enough to decide what may follow."""
START: Final[State] = (0, b"")
DIGITS: Final = b"0123456789"
ESCAPED: Final = b'"\\/bfnrt'


def header(names: Sequence[str], index: int) -> Text:
    """Return the id of the dialogue's call number `index` for any of the named tools."""
    return (tuple(f"functions.{name}:{index}".encode() for name in names),)


def arguments(schema: Mapping[str, Any]) -> Text:
    """Return the arguments that a tool's JSON schema declares: strings, whole numbers, and words of an `enum`.

    Raises UserError for a property of another type.
    """
    parts: list[Part] = []
    for place, (name, declared) in enumerate(schema["properties"].items()):
        parts.append(((("," if place else "{") + json.dumps(name, ensure_ascii=False) + ":").encode(),))
        if "enum" in declared:
            parts.append(tuple(json.dumps(word, ensure_ascii=False).encode() for word in declared["enum"]))
        elif declared.get("type") in ("integer", "string"):
            parts.append(declared["type"])
        else:
            raise UserError(
                f"the parameter {name!r} of a tool is declared as {declared}: only strings, integers and enums can be "
                "enforced; decode without the enforcer"
            )
    return (*parts, (b"}",) if parts else (b"{}",))


def step(text: Text, state: State, byte: int) -> State | None:
    """Return the state after one more byte; None if no legal text continues with it."""
    number, so_far = state
    if number == len(text):
        return None
    part = text[number]
    if part == "string":
        return _string(number, so_far, byte)
    if part == "integer":
        longer = _integer(so_far, byte)
        if longer is not None:
            return number, longer
        return step(text, (number + 1, b""), byte) if so_far not in (b"", b"-") else None
    longer = so_far + bytes([byte])
    if longer in part:
        return number + 1, b""
    return (number, longer) if any(choice.startswith(longer) for choice in part) else None


def _integer(so_far: bytes, byte: int) -> bytes | None:
    """Return the digits so far with one more, or None if it is not a digit; digits after the first do not matter."""
    if byte == ord("-") and not so_far:
        return b"-"
    if byte not in DIGITS or so_far == b"0":
        return None
    return b"0" if byte == ord("0") and so_far in (b"", b"-") else b"1"


def _string(number: int, so_far: bytes, byte: int) -> State | None:
    if so_far == b"":
        return (number, b"inside") if byte == ord('"') else None
    if so_far == b"escape":
        return (number, b"inside") if byte in ESCAPED else None
    if byte == ord('"'):
        return number + 1, b""
    if byte == ord("\\"):
        return number, b"escape"
    return (number, b"inside") if byte >= 0x20 else None


@dataclass
class _Node:
    """A node in the tree of all ids' bytes: the id that ends here, and the node for each next byte."""

    id: int = -1
    further: dict[int, "_Node"] = field(default_factory=dict)


class Vocabulary:
    """The ordinary ids that may follow each state, computed once per state."""

    def __init__(self, tokenizer: K2Tokenizer) -> None:
        special = set(tokenizer.special_ids.values())
        self._root = _Node()
        self._known: dict[tuple[Text, State], dict[int, State]] = {}
        for i in range(tokenizer.vocab_size):
            if i in special or not tokenizer.token_bytes(i):
                continue
            node = self._root
            for byte in tokenizer.token_bytes(i):
                node = node.further.setdefault(byte, _Node())
            node.id = i

    def following(self, text: Text, state: State) -> dict[int, State]:
        """Return each id that may come next, with the state that it leads to; empty if the text is complete."""
        known = self._known.get((text, state))
        if known is None:
            known = self._known[text, state] = {}
            self._walk(self._root, text, state, known)
        return known

    def _walk(self, node: _Node, text: Text, state: State, out: dict[int, State]) -> None:
        for byte, further in node.further.items():
            after = step(text, state, byte)
            if after is not None:
                if further.id >= 0:
                    out[further.id] = after
                self._walk(further, text, after, out)
