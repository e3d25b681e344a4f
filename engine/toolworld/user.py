"""The user simulator: personas that phrase requests in their own way, answer questions, and stop when served."""

from dataclasses import dataclass
from functools import cache

from engine.errors import UserError
from engine.toolworld.specs import HERE
from engine.toolworld.tasks import Goal, Task
from engine.yaml_file import read_yaml


@dataclass(frozen=True)
class Persona:
    """How a user talks: what surrounds a request, one request per turn or all at once, details withheld until asked."""

    name: str
    opening: str
    closing: str
    stepwise: bool
    withholds: bool
    phrasing: int


@cache
def load_personas() -> dict[str, Persona]:
    """Return the personas of personas.yml, by name."""
    raw = read_yaml(HERE / "personas.yml")
    return {name: Persona(name=name, **body) for name, body in raw.items()}


def persona(name: str) -> Persona:
    """Return the persona called `name`; an unknown name is a `UserError`."""
    known = load_personas()
    if name not in known:
        raise UserError(
            f"parameters/tooluse.yml: personas: '{name}' is not a persona; choose among {', '.join(known)}."
        )
    return known[name]


class UserSimulator:
    """The user of one episode: `first` opens the dialogue; `reply` answers the agent, or is None at the end."""

    def __init__(self, task: Task, who: Persona) -> None:
        self.task, self.persona = task, who
        self.withheld = withheld_goal(task, who)
        self._gave_detail = self.withheld is None
        self._next = 0
        self._puzzled = False

    def first(self) -> str:
        """Return the opening message: the first request (stepwise) or all of them."""
        count = 1 if self.persona.stepwise else len(self.task.goals)
        wishes = " ".join(self._ask(index) for index in range(count))
        self._next = count
        return " ".join(filter(None, (self.persona.opening, wishes, self.persona.closing)))

    def reply(self, text: str) -> str | None:
        """Return the answer to the agent's `text`: the withheld detail when asked, else the next request, else None."""
        if text.rstrip().endswith("?"):
            if not self._gave_detail and self.withheld is not None and self.withheld < self._next:
                self._gave_detail = True
                return f"{self.task.goals[self.withheld].missing_value}."
            if not self._puzzled:
                self._puzzled = True
                return "I have told you all."
            return None
        if self._next == len(self.task.goals):
            return None
        self._next += 1
        return self._ask(self._next - 1)

    def _ask(self, index: int) -> str:
        goal = self.task.goals[index]
        return goal.vague if index == self.withheld else phrased(goal, self.persona)


def phrased(goal: Goal, who: Persona) -> str:
    """Return the goal's request as `who` phrases it."""
    return goal.asks[who.phrasing % len(goal.asks)]


def withheld_goal(task: Task, who: Persona) -> int | None:
    """Return the goal whose detail `who` withholds: the first that can be requested without it, or None."""
    if not who.withholds:
        return None
    return next((index for index, goal in enumerate(task.goals) if goal.vague), None)
