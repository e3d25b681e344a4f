"""A task and its rubric as data: what the user wants, which calls it takes, what must be true afterwards.

A task is a list of goals. Each goal carries its part of the rubric (K2 paper, 3.1.1): a success criterion, the
expected tool pattern, checkpoints on the world's state, and the facts that the answer must contain. The rubric goes
into the `tasks` table as JSON and is all that `run_episode` and `judge` need, so evaluation can use the table alone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.errors import UserError
from engine.remedy import make_again
from engine.toolworld.specs import Declaration, ToolSpec, load_tools

PICK = "$pick"
"""An argument (or fact) that the agent may choose from the names that a listing showed."""
ANY_KEY = "*"
"""Stands for any one record of an application in a checkpoint."""


@dataclass(frozen=True)
class Step:
    """One expected call; `expects` "edge" means that the correct call is refused (an impossible request)."""

    tool: str
    arguments: dict[str, Any]
    expects: Literal["ok", "edge"] = "ok"


@dataclass(frozen=True)
class Checkpoint:
    """One record's change: the fields that differ at the end, or None if the record must be removed."""

    application: str
    key: str
    fields: dict[str, Any] | None


@dataclass(frozen=True)
class Goal:
    """One request of the user with its part of the rubric.

    `asks`: phrasings of the request; `vague` leaves out the detail called `missing`, whose value the user gives when
    asked. `report`: the field of the last result that replaces <value> in `answer`; "list" and "pick" stand for the
    listed keys and the chosen key, "" for nothing.
    """

    kind: str
    asks: tuple[str, ...]
    steps: tuple[Step, ...]
    criterion: str
    facts: tuple[str, ...]
    answer: str
    checkpoints: tuple[Checkpoint, ...] = ()
    answer_none: str = ""
    report: str = ""
    vague: str = ""
    missing: str = ""
    missing_value: str = ""
    missing_argument: str = ""


@dataclass(frozen=True)
class Task:
    """A rubric task for one agent.

    `tools` are the names of the agent's tools, `declaration` how they are declared to it, `world_seed` selects the
    initial state of the world.
    """

    agent_id: str
    domain: str
    system_prompt: str
    tools: tuple[str, ...]
    world_seed: int
    goals: tuple[Goal, ...]
    difficulty: str
    max_turns: int
    pass_score: float = 0.9
    declaration: Declaration = "full"
    id: str = ""
    split: str = ""

    @property
    def instruction(self) -> str:
        """The user's requests in one text."""
        return " ".join(goal.asks[0] for goal in self.goals)

    def tool_specs(self) -> list[ToolSpec]:
        """Return the specs of the agent's tools."""
        return [load_tools()[name] for name in self.tools]

    def openai_tools(self) -> list[dict[str, Any]]:
        """Return the agent's tools as OpenAI tool objects."""
        return [spec.openai(self.declaration) for spec in self.tool_specs()]

    def to_row(self) -> dict[str, str]:
        """Return the task as a row of the `tasks` table."""
        rubric = {
            "success_criteria": [goal.criterion for goal in self.goals],
            "system_prompt": self.system_prompt,
            "tools": list(self.tools),
            "world_seed": self.world_seed,
            "max_turns": self.max_turns,
            "pass_score": self.pass_score,
            "declaration": self.declaration,
            "goals": [asdict(goal) for goal in self.goals],
        }
        return {
            "id": self.id,
            "agent_id": self.agent_id,
            "domain": self.domain,
            "instruction": self.instruction,
            "rubric": json.dumps(rubric, separators=(",", ":")),
            "difficulty": self.difficulty,
            "split": self.split,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Task":
        """Build the task from a row of the `tasks` table; a rubric of another form is a `UserError`."""
        try:
            rubric = json.loads(row["rubric"])
            goals = tuple(_goal(raw) for raw in rubric["goals"])
            # A table made with another domains.yml names tools that are missing here.
            for name in (*rubric["tools"], *(step.tool for goal in goals for step in goal.steps)):
                load_tools()[name]
            return cls(
                agent_id=row["agent_id"], domain=row["domain"], system_prompt=rubric["system_prompt"],
                tools=tuple(rubric["tools"]), world_seed=rubric["world_seed"], goals=goals,
                difficulty=row["difficulty"], max_turns=rubric["max_turns"], pass_score=rubric["pass_score"],
                declaration=rubric["declaration"], id=row["id"], split=row["split"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"tasks table: the rubric of task '{row.get('id', '?')}' cannot be read ({error}): "
                f"{make_again('tooluse', None, force=True)}."
            ) from error


def _goal(raw: Mapping[str, Any]) -> Goal:
    steps = tuple(Step(**step) for step in raw["steps"])
    checkpoints = tuple(Checkpoint(**point) for point in raw["checkpoints"])
    plain = {name: value for name, value in raw.items() if name not in {"steps", "checkpoints"}}
    return Goal(
        **{**plain, "asks": tuple(raw["asks"]), "facts": tuple(raw["facts"])}, steps=steps, checkpoints=checkpoints
    )
