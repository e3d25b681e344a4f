"""Drills that train copying: values from the user's words into arguments, and from a record into an answer.

A small model learns the form of a tool call within a hundred steps; what keeps it from using tools is copying what
was said: it writes another room than the room 104 that the user named. A dialogue with tools copies a few words in
185 tokens, a drill one value in fifteen. Names and values come from the tool world, but none of its tasks is used.
"""

from collections.abc import Iterator
from functools import cache
from random import Random

from engine.toolworld.keyed import keyed_random
from engine.toolworld.messages import compact
from engine.toolworld.specs import Application, load_domains
from engine.toolworld.world import draw_value

Messages = list[dict[str, str]]


def drills(n: int, seed: int) -> Iterator[Messages]:
    """Yield `n` drills, alternating between the two kinds."""
    for number in range(n):
        rng = keyed_random(seed, "drill", number)
        yield _dialogue(*(_arguments(rng) if number % 2 else _lookup(rng)))


def _arguments(rng: Random) -> tuple[str, str]:
    """Return a question with some values in words, and the reply: a JSON object of them in the same order."""
    applications = rng.sample(_applications(), rng.choice((1, 2, 3, 5, 7)))
    pairs = dict(_pair(app, rng) for app in applications)
    words = " and ".join(f"{name} {value}" for name, value in pairs.items())
    return f"{words}.", compact(pairs)


def _lookup(rng: Random) -> tuple[str, str]:
    """Return a question about a record as a tool would return it, and the reply with its fields in another order."""
    app = rng.choice(_applications())
    record = {app.key: rng.choice(app.keys), **{name: _value(app, name, rng) for name in app.fields}}
    fields = rng.sample(list(record), len(record))
    return f"{compact(record)} {', '.join(fields)}?", " ".join(f"The {name} is {record[name]}." for name in fields)


def _pair(app: Application, rng: Random) -> tuple[str, str | int]:
    name = rng.choice([app.key, *app.fields])
    return name, rng.choice(app.keys) if name == app.key else _value(app, name, rng)


def _value(app: Application, name: str, rng: Random) -> str | int:
    """Return a value that the field may have; a field that starts empty holds a person."""
    spec = app.fields[name]
    return rng.choice(_people()) if spec.values == ("",) else draw_value(spec, rng.random())


def _dialogue(question: str, reply: str) -> Messages:
    """Return the drill as messages; the system turn is empty, as in the sums, so that only the drill counts."""
    roles = ("system", ""), ("user", question), ("assistant", reply)
    return [{"role": role, "content": content} for role, content in roles]


@cache
def _applications() -> tuple[Application, ...]:
    return tuple(app for domain in load_domains().values() for app in domain.applications.values())


@cache
def _people() -> tuple[str, ...]:
    return load_domains()["bank"].applications["accounts"].keys
