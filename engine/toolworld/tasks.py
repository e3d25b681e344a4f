"""A task and its rubric as data: what the user wants, which calls that takes, what must be true afterwards.

A task is a list of goals. Each goal carries its part of the rubric (K2 paper, 3.1.1): a success criterion, the
expected tool pattern, checkpoints on the world's state, and the facts that the answer has to hold. The rubric goes
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
"""An argument (or fact) that the agent may choose among what a listing showed."""
ANY_KEY = "*"
"""A checkpoint on any one record of an application."""


@dataclass(frozen=True)
class Step:
    """One expected call; `expects` "edge" means that the right call is refused (an impossible wish)."""

    tool: str
    arguments: dict[str, Any]
    expects: Literal["ok", "edge"] = "ok"


@dataclass(frozen=True)
class Checkpoint:
    """One record's change: the fields that differ at the end, or None when the record must be gone."""

    application: str
    key: str
    fields: dict[str, Any] | None


@dataclass(frozen=True)
class Goal:
    """One wish of the user with its part of the rubric.

    `asks`: phrasings of the wish; `vague` leaves out the detail called `missing`, whose value the user gives when
    asked. `report`: the field of the last result that fills <value> in `answer`; "list" and "pick" stand for the listed
    keys and the chosen key, "" for nothing.
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

    `tools` are the names the agent is given, `declaration` how they are declared to it, `world_seed` the world it
    starts in.
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
        """Everything the user wants, in one text."""
        return " ".join(goal.asks[0] for goal in self.goals)

    def tool_specs(self) -> list[ToolSpec]:
        """The specs of the agent's tools."""
        return [load_tools()[name] for name in self.tools]

    def openai_tools(self) -> list[dict[str, Any]]:
        """The agent's tools as OpenAI tool objects."""
        return [spec.openai(self.declaration) for spec in self.tool_specs()]

    def to_row(self) -> dict[str, str]:
        """The task as a row of the `tasks` table."""
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
        """Read a row of the `tasks` table back; a rubric of another form is a `UserError`."""
        try:
            rubric = json.loads(row["rubric"])
            goals = tuple(_goal(raw) for raw in rubric["goals"])
            # A table made with another domains.yml names tools that this one does not have.
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
