"""Rewrite tool calls' ids to K2's form, `functions.{name}:{index}`, and match each result to its call.

The model reads a call's function from its id alone, so an id of another make (`call_9f3`), or none at all, is rewritten
before a dialogue is trained on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError

Message = Mapping[str, Any]


def call_id(name: str, index: int) -> str:
    """Return K2's id of the call number `index` of a dialogue."""
    return f"functions.{name}:{index}"


@dataclass(frozen=True)
class _Call:
    """A call: the index of its message, the id that it came with ("" for none), its function, and its new id."""

    place: int
    came_as: str
    name: str
    id: str


def normalise_call_ids(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages with K2's ids on all calls, counted over the dialogue, and on the results of these calls.

    A result belongs to the call with its id in the latest message that has such a call. Where calls share an id or have
    none, they are matched with the results by order, or by function names if the results carry names.

    Raises:
        UserError: a result answers no call, or several calls that neither order nor names tell apart.

    """
    renamed = [dict(message) for message in messages]
    calls: list[_Call] = []
    results: list[int] = []  # indices of the results since the latest calls
    for place, message in enumerate(renamed):
        if message.get("tool_calls"):
            _pair(renamed, results, calls)
            results = []
            new = _renamed_calls(place, message["tool_calls"], len(calls))
            message["tool_calls"] = [
                {**call, "id": fresh.id} for call, fresh in zip(message["tool_calls"], new, strict=True)
            ]
            calls += new
        elif message.get("role") == "tool" or "tool_call_id" in message:
            results.append(place)
    _pair(renamed, results, calls)
    return renamed


def _renamed_calls(place: int, calls: Sequence[Message], first: int) -> list[_Call]:
    """Return the calls of the message at `place`, numbered from `first`."""
    try:
        names = [str(call["function"]["name"]) for call in calls]
        return [
            _Call(place, _text(call.get("id")), name, call_id(name, number))
            for number, (call, name) in enumerate(zip(calls, names, strict=True), first)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"messages[{place}] is not an OpenAI chat message: {error!r} is missing or wrong.") from None


def _text(identity: object) -> str:
    return "" if identity is None else str(identity)


def _pair(messages: list[dict[str, Any]], results: Sequence[int], calls: Sequence[_Call]) -> None:
    """Give the results at these places the new ids of the calls that they answer."""
    places_by_id: dict[str, list[int]] = {}
    for place in results:
        places_by_id.setdefault(_text(messages[place].get("tool_call_id")), []).append(place)
    answered: set[str] = set()
    for came_as in sorted(places_by_id, reverse=True):  # "" last: it may stand for whatever is not answered by id
        places = places_by_id[came_as]
        sharing = _candidates(came_as, calls, answered)
        if not sharing:
            raise UserError(
                f"messages[{places[0]}] is the result of a call with the id {came_as!r}, which no message before it "
                "makes: keep the call with its result, or leave both out."
            )
        paired = _paired([messages[place].get("name") for place in places], sharing, unique=bool(came_as))
        if paired is None:
            raise UserError(
                f"messages[{sharing[0].place}] makes {len(sharing)} calls with the id {came_as!r}, answered "
                f"{len(places)} times from messages[{places[0]}] on, and nothing says which result is whose: give each "
                "call an id of its own, or each result the `name` of its function."
            )
        for place, call in zip(places, paired, strict=True):
            messages[place]["tool_call_id"] = call.id
            answered.add(call.id)


def _candidates(came_as: str, calls: Sequence[_Call], answered: set[str]) -> list[_Call]:
    """Return the calls that a result of this id may answer, all of one message."""
    if came_as:
        same = [call for call in calls if call.came_as == came_as]
        return [call for call in same if call.place == same[-1].place]
    latest = [call for call in calls if call.place == calls[-1].place]
    return [call for call in latest if not call.came_as] or [call for call in latest if call.id not in answered]


def _paired(names: Sequence[object], calls: Sequence[_Call], unique: bool) -> list[_Call] | None:
    """Return the call of each result, given the results' names in order; None if the match is ambiguous."""
    if len(calls) == 1 and unique:
        return [calls[0]] * len(names)
    functions = Counter(call.name for call in calls)
    in_order = len(names) == len(calls)
    if in_order and all(name not in functions or name == call.name for name, call in zip(names, calls, strict=True)):
        return list(calls)
    if all(functions[str(name)] == count for name, count in Counter(names).items()):
        left = list(calls)
        return [left.pop(next(i for i, call in enumerate(left) if call.name == name)) for name in names]
    return None
