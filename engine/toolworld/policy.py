"""The template policy: an agent that follows the rubric's plan and, on request, makes one known mistake.

It knows the plan (it generates data, it is not a model), but it may use a detail only after the user has said it, and
it answers with what the tools returned. A planted defect gives the judge something to reject; `planted` records
whether the defect really occurred.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from engine.keyed import keyed_random
from engine.toolworld.messages import Message, assistant, calls_made, compact, tool_call
from engine.toolworld.specs import FieldSpec, application_of, load_tools, operations
from engine.toolworld.tasks import PICK, Goal, Step, Task
from engine.toolworld.user import Persona, withheld_goal
from engine.toolworld.world import holder_names

Defect = Literal[
    "wrong_argument",
    "missing_step",
    "hallucinated_result",
    "malformed_call",
    "repeated_write",
    "guessed_detail",
    "gave_up",
]
DEFECTS: tuple[str, ...] = get_args(Defect)


@dataclass
class _Progress:
    """The progress of one goal."""

    step: int = 0
    left: int | None = None
    pick: str = ""
    wrong: dict[str, Any] | None = None  # kept, so that a busy service does not undo the mistake
    result: dict[str, Any] | None = None
    refused: str = ""
    done: bool = False
    reported: bool = False


class TemplatePolicy:
    """An agent for one episode, an `AgentFn`; `parallel` issues independent reads in one turn."""

    def __init__(self, task: Task, who: Persona, seed: int, defect: str = "", parallel: bool = False) -> None:
        self.task, self.persona, self.defect, self.parallel = task, who, defect, parallel
        self.planted = False
        self._rng = keyed_random(seed, "policy", task.id, who.name)
        self._progress = [_Progress() for _ in task.goals]
        self._pending: list[int] = []
        self._repeated = False
        self._withheld = withheld_goal(task, who)
        self._detail: Literal["hidden", "asked", "known"] = "hidden" if self._withheld is not None else "known"
        fitting = [index for index, goal in enumerate(task.goals) if _shows(defect, goal)]
        self._target = self._rng.choice(fitting) if fitting else -1

    def __call__(self, messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        """Return the next assistant message; `tools` is unused, since the plan names what is needed."""
        if messages[-1]["role"] == "tool":
            # A repeated write is a defect only if it succeeded.
            self.planted |= self._repeated and "ok" in json.loads(messages[-1]["content"])
            self._read_results(messages[len(messages) - len(self._pending) :])
        elif self._detail == "asked":
            self._detail = "known"
        open_goals = [index for index in range(self._revealed(messages)) if not self._progress[index].done]
        if self._must_ask(open_goals):
            self._detail = "asked"
            missing = self.task.goals[open_goals[0]].missing
            return assistant(operations()["question"].format(missing=missing))
        self._skip_step(open_goals)
        open_goals = [index for index in open_goals if not self._progress[index].done]
        if open_goals:
            return self._call(open_goals, calls_made(messages))
        if extra := self._repeat_write(calls_made(messages)):
            return extra
        return self._report()

    def _revealed(self, messages: list[Message]) -> int:
        if not self.persona.stepwise:
            return len(self.task.goals)
        spoken = sum(1 for message in messages if message["role"] == "user")
        question_asked = self._withheld is not None and self._detail == "known" and not self._guesses()
        return min(spoken - (1 if question_asked else 0), len(self.task.goals))

    def _must_ask(self, open_goals: list[int]) -> bool:
        if self._detail != "hidden" or not open_goals or open_goals[0] != self._withheld:
            return False
        return not self._guesses()

    def _guesses(self) -> bool:
        return self.defect == "guessed_detail" and self._withheld is not None

    # --- calls -------------------------------------------------------------------------------------------------

    def _call(self, open_goals: list[int], index: int) -> Message:
        """Return the next call of the first open goal; with `parallel`, also the reads of the goals that follow it."""
        batch = open_goals[:1]
        if self.parallel and self._is_read(batch[0]):
            following = open_goals[1:]
            stop = next((i for i, goal in enumerate(following) if not self._is_read(goal)), len(following))
            batch += following[:stop]
        self._pending = batch
        return assistant("", [self._one_call(goal, index + offset) for offset, goal in enumerate(batch)])

    def _is_read(self, goal: int) -> bool:
        """Return whether the goal is a single read; a read before a write must not overtake another goal's write."""
        return len(self.task.goals[goal].steps) == 1 and not load_tools()[self._step(goal).tool].stateful

    def _step(self, goal: int) -> Step:
        return self.task.goals[goal].steps[self._progress[goal].step]

    def _one_call(self, goal: int, index: int) -> dict[str, Any]:
        step, progress = self._step(goal), self._progress[goal]
        arguments = {name: progress.pick if value == PICK else value for name, value in step.arguments.items()}
        last_step = progress.step == len(self.task.goals[goal].steps) - 1
        if goal == self._target and not self.planted and last_step:
            if self.defect == "malformed_call":
                self.planted = True
                return tool_call(step.tool, compact(arguments)[:-1], index)
            if self.defect == "wrong_argument":
                progress.wrong = self._wrong(step.tool, arguments, self._rng.choice(sorted(arguments)))
        if goal == self._withheld and self._guesses() and last_step and progress.wrong is None:
            progress.wrong = self._wrong(step.tool, arguments, self.task.goals[goal].missing_argument)
        arguments = dict(progress.wrong or arguments)
        if progress.left is not None:
            arguments["amount"] = progress.left
        return tool_call(step.tool, compact(arguments), index)

    def _wrong(self, tool: str, arguments: dict[str, Any], name: str) -> dict[str, Any]:
        """Return `arguments` with another plausible value for `name`."""
        self.planted = True
        app = application_of(load_tools()[tool])
        choices: tuple[Any, ...]
        if name == "amount" or app.fields.get(name, FieldSpec(values=("",))).is_number:
            choices = tuple(arguments[name] + extra for extra in (1, 2, 5, 10))
        elif name in app.fields:
            choices = app.fields[name].values if len(app.fields[name].values) > 1 else holder_names()
        else:
            choices = app.keys
        return {**arguments, name: self._rng.choice([choice for choice in choices if choice != arguments[name]])}

    def _repeat_write(self, index: int) -> Message | None:
        """Return the defect of doing a write twice; it comes after the goals are done and before the answer."""
        if self.defect != "repeated_write" or self._repeated or self._target < 0:
            return None
        progress, goal = self._progress[self._target], self.task.goals[self._target]
        if not progress.done or progress.refused:
            return None
        self._repeated, self._pending = True, []
        step = goal.steps[-1]
        return assistant("", [tool_call(step.tool, compact(step.arguments), index)])

    def _skip_step(self, open_goals: list[int]) -> None:
        """Plant the defect of claiming what was not done: the answer is then made from the user's request alone."""
        goal = self._target
        if self.defect != "missing_step" or self.planted or goal not in open_goals:
            return
        progress, step = self._progress[goal], self._step(goal)
        # If another goal makes the same call, its result answers this goal too, and skipping would not be a defect.
        answered_elsewhere = any(step in other.steps for index, other in enumerate(self.task.goals) if index != goal)
        if progress.step == len(self.task.goals[goal].steps) - 1 and not answered_elsewhere:
            progress.done = self.planted = True
            progress.result = None

    # --- results -----------------------------------------------------------------------------------------------

    def _read_results(self, answers: list[Message]) -> None:
        for goal, message in zip(self._pending, answers):
            self._read_one(goal, json.loads(message["content"]))
        self._pending = []

    def _read_one(self, goal: int, value: dict[str, Any]) -> None:
        progress, steps = self._progress[goal], self.task.goals[goal].steps
        error = value.get("error")
        if error in {"arguments are not JSON", "bad arguments"} or value.get("more"):
            return
        if error == "busy" and not (self.defect == "gave_up" and goal == self._target):
            return
        if "left" in value and not (self.defect == "gave_up" and goal == self._target):
            progress.left = value["left"]
            return
        if error is not None or "left" in value:
            self.planted |= self.defect == "gave_up" and (error == "busy" or "left" in value)
            progress.refused, progress.done = str(error or "not all done"), True
            return
        progress.result = value
        if listed := next((item for item in value.values() if isinstance(item, list)), None):
            progress.pick = listed[0]
        progress.step += 1
        progress.done = progress.step == len(steps)

    # --- answers -----------------------------------------------------------------------------------------------

    def _report(self) -> Message:
        """Return one sentence for each goal done since the last answer."""
        sentences = []
        for index, (goal, progress) in enumerate(zip(self.task.goals, self._progress)):
            if progress.done and not progress.reported:
                progress.reported = True
                sentences.append(self._sentence(index, goal, progress))
        return assistant(" ".join(sentences) or "What can I do for you?")

    def _sentence(self, index: int, goal: Goal, progress: _Progress) -> str:
        if progress.refused:
            return str(operations()["cannot"]).replace("<value>", progress.refused)
        value = self._value(goal, progress)
        if self.defect == "hallucinated_result" and index == self._target:
            self.planted = True
            value = self._made_up(goal, value)
        if not value:
            return goal.answer_none
        # A conditional request whose condition did not hold ends at its read: nothing had to be done.
        idle = goal.kind == "set_if" and len(goal.steps) == 1
        return (goal.answer_none if idle else goal.answer).replace("<value>", value)

    def _value(self, goal: Goal, progress: _Progress) -> str:
        result = progress.result or {}
        if goal.report == "pick":
            return progress.pick
        if goal.report == "list":
            return ", ".join(next(iter(result.values())) if result else goal.facts[1:])
        if goal.report in result:
            return str(result[goal.report])
        return goal.facts[-1] if goal.facts else "-"

    def _made_up(self, goal: Goal, value: str) -> str:
        """Return a value other than the one that the tools gave."""
        if value.isdigit():
            return str(int(value) + self._rng.choice((1, 3, 7, 20)))
        app = application_of(load_tools()[goal.steps[-1].tool])
        field = app.fields.get(goal.report)
        choices = field.values if field is not None and len(field.values) > 1 else app.keys
        return self._rng.choice([choice for choice in choices if choice not in value])


def _shows(defect: str, goal: Goal) -> bool:
    """Return whether `defect` can occur in `goal`."""
    twice = load_tools()[goal.steps[-1].tool].form.operation.twice
    fine = goal.steps[-1].expects == "ok"
    match defect:
        case "missing_step":
            return fine
        case "hallucinated_result":
            return fine and bool(goal.report)
        case "repeated_write":
            return fine and twice and PICK not in goal.steps[-1].arguments.values()
        case "wrong_argument" | "malformed_call" | "gave_up":
            return True
    return False
