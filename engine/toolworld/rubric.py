"""Collect the evidence of an episode and check it: what was called, what was said, what was made up."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.toolworld.messages import Message, all_calls, is_text, parsed_arguments, words
from engine.toolworld.specs import application_of, load_domains, load_tools
from engine.toolworld.tasks import PICK, Goal, Step, Task
from engine.toolworld.world import World

_SENTENCE_END = re.compile(r"[.?!](?:\s+|$)")


@dataclass(frozen=True)
class Call:
    """A call that reached the world: its message's position in the transcript, the call itself, and its outcome."""

    position: int
    name: str
    arguments: dict[str, Any]
    outcome: str


@dataclass(frozen=True)
class Evidence:
    """The judge's evidence: the calls that reached the world, the number of all calls, and the transcript."""

    calls: tuple[Call, ...]
    total_calls: int
    messages: tuple[Message, ...]

    @classmethod
    def gather(cls, task: Task, world: World, messages: list[Message]) -> "Evidence":
        """Pair the transcript's calls with the world's log; both are in the same order."""
        calls_made = list(all_calls(messages))
        reached = [
            (position, call)
            for position, call in calls_made
            if call["function"]["name"] in task.tools and parsed_arguments(call) is not None
        ]
        calls = tuple(
            Call(position, logged.tool, logged.arguments, logged.result.outcome)
            for (position, _), logged in zip(reached, world.log, strict=True)
        )
        return cls(calls, len(calls_made), tuple(messages))


def matches_step(step: Step, call: Call) -> bool:
    """Return whether `call` is what `step` expects; an amount may come in parts, since the state shows its sum."""
    if call.name != step.tool or call.arguments.keys() != step.arguments.keys():
        return False
    return all(
        value == PICK or name == "amount" or call.arguments[name] == value for name, value in step.arguments.items()
    )


def goal_match(goal: Goal, evidence: Evidence) -> list[Call] | None:
    """Return the calls that carry out the goal's steps in order, or None if they are not there."""
    calls: list[Call] = []
    start = 0
    for step in goal.steps:
        index = next((i for i in range(start, len(evidence.calls)) if _carries(step, evidence.calls[i])), None)
        if index is None:
            return None
        calls.append(evidence.calls[index])
        start = index + 1
    return calls


def _carries(step: Step, call: Call) -> bool:
    if not matches_step(step, call) or call.outcome != step.expects:
        return False
    # The state shows the sum of amounts only if the call succeeds; the amount of a refused call is compared here.
    return step.expects == "ok" or call.arguments == step.arguments


def facts_missing(task: Task, goal: Goal, evidence: Evidence) -> list[str]:
    """Return the goal's facts that no sentence after its calls holds, and names that a listing did not give.

    All facts must be in one sentence, because "Done. It is now open" must not count as saying that it is done.
    """
    matched = goal_match(goal, evidence)
    if matched is None:
        return [f"nothing to answer from: {goal.criterion}"]
    after = matched[-1].position if matched else 0
    texts = [str(m.get("content") or "") for m in evidence.messages[after:] if is_text(m)]
    facts = [_picked(matched[-1]) if fact == PICK else fact for fact in goal.facts]
    fact_words = words(" ".join(facts))
    is_said = any(fact_words <= words(sentence) for text in texts for sentence in _SENTENCE_END.split(text))
    problems = [] if is_said else [f"the answer does not say {', '.join(facts)}"]
    if goal.kind == "list" and texts:
        own_keys = {key.lower() for key in application_of(load_tools()[goal.steps[0].tool]).keys}
        extra = words(texts[0]) & own_keys - {fact.lower() for fact in facts} - _other_words(task, goal)
        problems += [f"the answer names '{key}', which was not listed" for key in sorted(extra)]
    return problems


def contradictions(task: Task, evidence: Evidence) -> list[str]:
    """Return the sentences that give a wrong value for a record's field, or give it before a call returned it.

    A listing by the same field may name the record too; a sentence with the whole listing is not a contradiction.
    """
    allowed: dict[tuple[str, str], set[str]] = {}
    known_from: dict[tuple[str, str, str], int] = {}
    for goal in task.goals:
        if goal.report in {"", "list", "pick"} or goal.steps[-1].expects != "ok":
            continue
        key, value = (fact.lower() for fact in goal.facts)
        allowed.setdefault((key, goal.report), set()).add(value)
        if matched := goal_match(goal, evidence):
            place = (key, goal.report, value)
            known_from[place] = min(matched[-1].position, known_from.get(place, matched[-1].position))
    listings = [words(" ".join(goal.facts)) for goal in task.goals if goal.kind == "list"]
    problems = []
    for position, sentence, spoken in _sentences(evidence):
        if any(listing <= spoken for listing in listings):
            continue
        for (key, field), values in allowed.items():
            if not {key, field} <= spoken:
                continue
            if not values & spoken:
                problems.append(f"'{sentence}' contradicts the result")
            elif all(position < known_from.get((key, field, value), 0) for value in values & spoken):
                problems.append(f"'{sentence}' was said before any call told it")
    return problems


def _sentences(evidence: Evidence) -> Iterator[tuple[int, str, set[str]]]:
    """Yield (position of the message, sentence, its words) for everything the agent said to the user."""
    for position, message in enumerate(evidence.messages):
        if is_text(message):
            for sentence in _SENTENCE_END.split(str(message.get("content") or "")):
                yield position, sentence, words(sentence)


def _picked(call: Call) -> str:
    return str(call.arguments[application_of(load_tools()[call.name]).key])


def _other_words(task: Task, goal: Goal) -> set[str]:
    """Return the words that other goals of the task may bring into the same answer."""
    others = [other for other in task.goals if other is not goal]
    return words(" ".join(" ".join((*other.asks, *other.facts)) for other in others))


def ungrounded_arguments(messages: list[Message]) -> list[str]:
    """Return argument values that nobody said before the call: a guessed name, an invented amount."""
    known: set[str] = set()
    problems = []
    for message in messages:
        for _, call in all_calls([message]):
            for name, value in (parsed_arguments(call) or {}).items():
                if not words(str(value)) <= known:
                    problems.append(f"nobody said '{value}' for {name}")
        if message["role"] in {"user", "tool"}:
            known |= words(str(message["content"]))
    return problems


def ungrounded_words(task: Task, messages: list[Message]) -> list[str]:
    """Return numbers and record names in the agent's answers that neither the user nor a tool gave before."""
    keys = {key.lower() for app in load_domains()[task.domain].applications.values() for key in app.keys}
    known: set[str] = set()
    problems = []
    for message in messages:
        if message["role"] in {"user", "tool"}:
            known |= words(str(message["content"]))
        elif message["role"] == "assistant":
            spoken = words(str(message.get("content") or ""))
            problems += [f"'{word}' is made up" for word in sorted(spoken - known) if word in keys or _is_number(word)]
    return problems


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", word) is not None
