"""Make rubric tasks for agents, simple to complex, each on the world in which it will be played."""

import random
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import UserError
from engine.keyed import keyed_digest, keyed_random
from engine.toolworld.specs import load_tools
from engine.toolworld.tasks import Goal, Task
from engine.toolworld.world import World
from nodes.tooluse.goals import Draft, make_goal, make_two_step
from nodes.tooluse.schema import Parameters, Split

ATTEMPTS = 60
"""Attempts to make one task; an attempt fails if nothing in the world fits, or the task exists already."""


@dataclass(frozen=True)
class _Slot:
    """Identifies an attempt at a task: its agent, its number, and the number of attempts before."""

    agent: dict[str, Any]
    number: int
    attempt: int


def make_tasks(agents: list[dict[str, Any]], p: Parameters) -> list[Task]:
    """Return `p.tasks` different tasks, agents taking turns; a `UserError` if the domains cannot give so many."""
    tasks: list[Task] = []
    seen: set[tuple[str, str]] = set()
    for number in range(p.tasks):
        agent = agents[number % len(agents)]
        for attempt in range(ATTEMPTS):
            task = _try_task(_Slot(agent, number, attempt), p)
            if task is not None and (task.agent_id, task.instruction) not in seen:
                break
        else:
            raise UserError(
                f"parameters/tooluse.yml: tasks: no new task number {number} found for {agent['id']}; "
                "ask for fewer tasks, or for more agents or domains."
            )
        seen.add((task.agent_id, task.instruction))
        tasks.append(task)
    return tasks


def _try_task(slot: _Slot, p: Parameters) -> Task | None:
    key = (p.seed, "task", slot.agent["id"], slot.number, slot.attempt)
    rng = keyed_random(*key)
    world_seed = rng.randrange(2**31)
    level = _level(rng, p)
    goals = _goals(Draft(World(slot.agent["domain"], world_seed), rng), slot.agent["tools"], level, p.impossible)
    if goals is None:
        return None
    task = Task(
        agent_id=slot.agent["id"], domain=slot.agent["domain"], system_prompt=slot.agent["system_prompt"],
        tools=tuple(slot.agent["tools"]), world_seed=world_seed, goals=tuple(goals), difficulty=level,
        max_turns=p.max_turns, pass_score=p.pass_score, declaration=p.declaration,
    )  # fmt: skip
    identity = "task_" + keyed_digest(task.agent_id, task.world_seed, task.instruction)
    return replace(task, id=identity, split=split_of(task.instruction, p.split))


def _level(rng: random.Random, p: Parameters) -> str:
    weights = p.difficulty
    return rng.choices(("simple", "medium", "complex"), (weights.simple, weights.medium, weights.complex))[0]


def _goals(draft: Draft, names: list[str], level: str, impossible: float) -> list[Goal] | None:
    """Return goals: simple is one call; medium a read and a write, a refusal, or two requests; complex three steps."""
    tools = [load_tools()[name] for name in names]
    rng = draft.rng
    if level == "simple":
        goals = [make_goal(draft, tools, rng.random() < impossible)]
    elif level == "medium":
        two_step = make_two_step(draft, tools) if rng.random() < 0.5 else None
        goals = (
            [two_step] if two_step else [make_goal(draft, tools, rng.random() < impossible), _possible(draft, tools)]
        )
    else:
        two_step = make_two_step(draft, tools)
        goals = [two_step] if two_step else [_possible(draft, tools), _possible(draft, tools)]
        goals.append(make_goal(draft, tools, rng.random() < impossible))
    possible = [goal for goal in goals if goal is not None]
    asks = {goal.asks[0] for goal in possible}
    return possible if len(possible) == len(goals) == len(asks) else None


def _possible(draft: Draft, tools: list[Any]) -> Goal | None:
    return make_goal(draft, tools, impossible=False)


def split_of(instruction: str, split: Split) -> str:
    """Return train, rl, validation or test, by the hash of the instruction alone.

    The same words go to the same split whichever agent is asked, so a held-out task was never seen.
    """
    share = int(keyed_digest("split", instruction), 16) / 2**64
    for name, bound in (("train", split.train), ("rl", split.rl), ("validation", split.validation)):
        if share < bound:
            return name
        share -= bound
    return "test"
