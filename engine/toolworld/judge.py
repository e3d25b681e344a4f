"""The rubric judge scores a finished episode by the world's state and the transcript (K2 paper, 3.1.1).

Each check is one line of the rubric. A critical check that fails rejects the trajectory; the others lower the score.
The judge takes from the world's log what calls did, and from the messages what was said.
"""

from dataclasses import dataclass
from typing import Any

from engine.toolworld.messages import Message, all_calls, is_text
from engine.toolworld.rubric import (
    Evidence,
    contradictions,
    facts_missing,
    goal_match,
    matches_step,
    ungrounded_arguments,
    ungrounded_words,
)
from engine.toolworld.specs import load_tools
from engine.toolworld.tasks import ANY_KEY, Checkpoint, Task
from engine.toolworld.validate import validate_call
from engine.toolworld.world import Diff, World


@dataclass(frozen=True)
class Check:
    """The result of one line of the rubric for an episode."""

    name: str
    weight: float
    critical: bool
    passed: bool
    note: str


@dataclass(frozen=True)
class Verdict:
    """The judge's decision; `score` is the weighted share of checks that pass, in [0, 1]."""

    passed: bool
    score: float
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[str]:
        """Why checks failed, in one short sentence per check."""
        return [f"{check.name}: {check.note}" for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data, for the `verdict` column."""
        return {
            "passed": self.passed,
            "score": self.score,
            "reasons": self.reasons,
            "checks": {check.name: check.passed for check in self.checks},
        }


def judge(task: Task, world: World, messages: list[Message]) -> Verdict:
    """Score the episode recorded by `messages` and `world` by the task's rubric."""
    evidence = Evidence.gather(task, world, messages)
    notes = {
        "calls_valid": _invalid_calls(task, messages),
        "arguments_grounded": ungrounded_arguments(messages),
        "tool_pattern": [f"no call for: {goal.criterion}" for goal in task.goals if goal_match(goal, evidence) is None],
        "state": _state_problems(task, world.diff()),
        "no_unasked_write": _unasked_writes(task, evidence),
        "facts": [note for goal in task.goals for note in facts_missing(task, goal, evidence)]
        + contradictions(task, evidence),
        "answers_grounded": ungrounded_words(task, messages),
        "finished": _unfinished(task, messages),
        "economy": _wasted(task, evidence),
    }
    checks = tuple(
        Check(name, WEIGHTS[name], name not in SOFT, not problems, "; ".join(problems[:3]))
        for name, problems in notes.items()
    )
    total = sum(check.weight for check in checks)
    score = round(sum(check.weight for check in checks if check.passed) / total, 4)
    sound = all(check.passed for check in checks if check.critical)
    return Verdict(sound and score >= task.pass_score, score, checks)


WEIGHTS = {
    "calls_valid": 2.0,
    "arguments_grounded": 2.0,
    "tool_pattern": 3.0,
    "state": 4.0,
    "no_unasked_write": 2.0,
    "facts": 3.0,
    "answers_grounded": 2.0,
    "finished": 1.0,
    "economy": 1.0,
}
"""How much each check counts in the score; the state of the world counts most."""
SOFT = frozenset({"economy"})
"""Checks that lower the score without rejecting by themselves."""


def _invalid_calls(task: Task, messages: list[Message]) -> list[str]:
    problems = []
    for number, (_, call) in enumerate(all_calls(messages)):
        name = call["function"]["name"]
        if call.get("id") != f"functions.{name}:{number}":
            problems.append(f"call {number} has the id '{call.get('id')}'")
        tool = load_tools()[name] if name in task.tools else None
        problems += [f"{name}: {problem}" for problem in validate_call(tool, call["function"]["arguments"])]
    return problems


def _state_problems(task: Task, diff: Diff) -> list[str]:
    """Return the requested changes that are missing, and the changes that nobody requested."""
    left = dict(diff)
    problems = []
    checkpoints = [point for goal in task.goals for point in goal.checkpoints]
    # Exact records first, so that a checkpoint on any record cannot take a change that another checkpoint names.
    for point in sorted(checkpoints, key=lambda point: point.key == ANY_KEY):
        match = next((place for place, fields in left.items() if _fits(point, place, fields)), None)
        if match is None:
            problems.append(f"{point.application}/{point.key} should have become {point.fields}")
        else:
            del left[match]
    return problems + [f"{app}/{key} changed unasked" for app, key in left]


def _fits(point: Checkpoint, place: tuple[str, str], fields: dict[str, Any] | None) -> bool:
    return place[0] == point.application and point.key in (place[1], ANY_KEY) and fields == point.fields


def _unasked_writes(task: Task, evidence: Evidence) -> list[str]:
    """Return the writes that succeeded although no step asks for them, or more often than asked for."""
    steps = [step for goal in task.goals for step in goal.steps if load_tools()[step.tool].stateful]
    problems = []
    for call in evidence.calls:
        if not load_tools()[call.name].stateful or call.outcome != "ok":
            continue
        match = next((step for step in steps if matches_step(step, call)), None)
        if match is None:
            problems.append(f"{call.name} was not asked for")
        else:
            steps.remove(match)
    return problems


def _unfinished(task: Task, messages: list[Message]) -> list[str]:
    if not is_text(messages[-1]) or not str(messages[-1].get("content") or "").strip():
        return ["the last message is not an answer"]
    turns = sum(message["role"] == "assistant" for message in messages)
    return ["too many turns"] if turns > task.max_turns else []


def _wasted(task: Task, evidence: Evidence) -> list[str]:
    needed = sum(len(goal.steps) for goal in task.goals)
    faults = sum(call.outcome in {"busy", "partial"} for call in evidence.calls)
    made = evidence.total_calls
    return [f"{made} calls where {needed + faults} do"] if made > needed + faults else []
