"""Make a user's requests with their rubric, by trying them on a scratch copy of the world.

The program decides the structure (which tool, which arguments, what must follow); the forms of operations.yml provide
the words. A goal is simulated before it is written down, so its checkpoints and facts are what really happens.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.toolworld.specs import Application, ToolSpec, application_of, operations
from engine.toolworld.tasks import ANY_KEY, PICK, Checkpoint, Goal, Step
from engine.toolworld.world import World, holder_names

AMOUNTS = (1, 2, 3, 4, 5, 6, 8, 9)
"""Small amounts; multiplied by the field's step, so that balances stay round."""


@dataclass
class Draft:
    """One task while it is made: its scratch world, its random draws, and the records already used."""

    world: World
    rng: random.Random
    taken: set[tuple[str, str]] = field(default_factory=set)

    def keys(self, tool: ToolSpec) -> list[str]:
        """Return the records of the tool's application that no earlier goal changes."""
        return [key for key in self.world.state[tool.application] if (tool.application, key) not in self.taken]

    def absent(self, tool: ToolSpec) -> list[str]:
        """Return names for which the application has no record."""
        state = self.world.state[tool.application]
        app = application_of(tool)
        return [key for key in app.keys if key not in state and (tool.application, key) not in self.taken]

    def pick(self, items: list[Any]) -> Any:
        """Return one of `items`, or None if there are none."""
        return self.rng.choice(items) if items else None


Maker = Callable[[Draft, ToolSpec, bool], Goal | None]


def make_goal(draft: Draft, tools: list[ToolSpec], impossible: bool) -> Goal | None:
    """Return a goal for one of `tools`, or None if the drawn one does not fit the world."""
    tool = draft.rng.choice(tools)
    goal = MAKERS.get(tool.form.does, _one_record)(draft, tool, impossible)
    return _seal(draft, goal) if goal else None


def make_two_step(draft: Draft, tools: list[ToolSpec]) -> Goal | None:
    """Return a goal that reads before it writes (claim any free one, set if), if the tools allow one."""
    pairs = [
        (maker, reader, writer)
        for does, needs, maker in (("claim", "list", _claim_any), ("set", "read", _set_if))
        for writer in tools
        for reader in tools
        if (writer.form.does, reader.form.does, writer.application) == (does, needs, reader.application)
    ]
    drawn = draft.pick(pairs)
    goal = drawn[0](draft, drawn[1], drawn[2]) if drawn else None
    return _seal(draft, goal) if goal else None


def _seal(draft: Draft, goal: Goal) -> Goal | None:
    """Play the goal on the scratch world and record what changed; return None if it did not go as planned."""
    before = draft.world.diff()
    values: dict[str, Any] = {}
    picked = ""
    for step in goal.steps:
        arguments = {name: picked if value == PICK else value for name, value in step.arguments.items()}
        result = draft.world.call(step.tool, arguments)
        if result.outcome != step.expects:
            return None
        values = result.value
        picked = next((value[0] for value in values.values() if isinstance(value, list) and value), picked)
    after = draft.world.diff()
    changed = {place: fields for place, fields in after.items() if before.get(place, "same") != fields}
    draft.taken |= changed.keys()
    any_key = goal.kind == "claim_any"
    if any_key:  # any record may be chosen, so no other goal of this task may touch the application
        draft.taken |= {(place[0], key) for place in changed for key in draft.world.state[place[0]]}
    points = tuple(
        Checkpoint(app, ANY_KEY if any_key else key, None if fields is None else dict(fields))
        for (app, key), fields in changed.items()
    )
    return _with_facts(goal, values, points)


def _with_facts(goal: Goal, values: dict[str, Any], points: tuple[Checkpoint, ...]) -> Goal:
    """Return the goal with its checkpoints and the facts that its answer must contain."""
    facts = goal.facts
    if goal.steps[-1].expects == "edge":
        facts = ("cannot", *str(values["error"]).split())
    elif goal.report == "list":
        listed = next(iter(values.values()))
        facts = (*goal.facts, *listed) if listed else (*goal.facts, "no")
    elif goal.report and goal.report != "pick":
        facts = (*goal.facts, str(values[goal.report]))
    return Goal(**{**vars(goal), "facts": facts, "checkpoints": points})


# --- words -----------------------------------------------------------------------------------------------------


def _sentence(template: str, slots: dict[str, Any]) -> str:
    text = template.format(**slots)
    return text[:1].upper() + text[1:]


def _goal(kind: str, tool: ToolSpec, steps: list[Step], slots: dict[str, Any], report: str = "", **more: Any) -> Goal:
    """Join the words of `kind` with the steps; `missing` in `more` names the argument that a vague user leaves out."""
    app, form = application_of(tool), tool.form
    full = {
        "entity": app.entity, "entities": app.entities, "Entities": app.entities.capitalize(), "field": form.field,
        "verb": form.verb, "Verb": form.verb.capitalize(), "to": form.to, "free": form.from_, **slots,
    }  # fmt: skip
    full["It"] = str(full.get("it", ""))[:1].upper() + str(full.get("it", ""))[1:]
    words = operations()[kind]
    withheld = more.pop("missing", "")
    asks = tuple(_sentence(ask, full) for ask in words["ask"])
    return Goal(
        kind=kind,
        asks=asks,
        steps=tuple(steps),
        criterion=asks[0],
        facts=more.pop("facts", ()),
        answer=_sentence(words["answer"][0], full),
        answer_none=_sentence(words["answer_none"], full) if "answer_none" in words else "",
        report=report,
        vague=_sentence(words["vague"], full) if withheld else "",
        missing=withheld,
        missing_value=str(steps[-1].arguments[withheld]) if withheld else "",
        missing_argument=withheld,
    )


def _expects(impossible: bool) -> Any:
    return "edge" if impossible else "ok"


# --- one call --------------------------------------------------------------------------------------------------


def _one_record(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    """Return a goal of an operation on one record; impossible means a record that is not there."""
    app, form = application_of(tool), tool.form
    key = draft.pick(draft.absent(tool) if impossible else draft.keys(tool))
    if key is None:
        return None
    arguments: dict[str, Any] = {app.key: key}
    slots: dict[str, Any] = {"it": app.words(key)}
    names = {"": "", "value": form.field, "amount": "amount", "by": form.holder}
    for argument in form.operation.arguments:
        match argument:
            case "field":
                current = draft.world.state[tool.application].get(key, {}).get(form.field)
                slots["value"] = draft.pick([value for value in app.fields[form.field].values if value != current])
                arguments[form.field] = slots["value"]
            case "amount":
                slots["amount"] = arguments["amount"] = _amount(draft, app, form.field)
            case "holder":
                slots["by"] = arguments[form.holder] = draft.pick(list(holder_names()))
    step = Step(tool.name, arguments, _expects(impossible))
    missing = names[form.operation.missing]
    report = form.field if "field" in form.operation.returns else ""
    return _goal(form.does, tool, [step], slots, report=report, missing=missing, facts=(key,))


def _read(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app = application_of(tool)
    # Reading what an earlier goal wrote is allowed ("then tell me"); a removed record cannot be read.
    key = draft.pick(draft.absent(tool)) if impossible else draft.pick(list(draft.world.state[tool.application]))
    record = draft.world.state[tool.application].get(key, {})
    field_name = draft.pick([name for name in app.fields if impossible or record.get(name) != ""])
    if key is None or field_name is None:
        return None
    slots = {"it": app.words(key), "field": field_name}
    return _goal(
        "read", tool, [Step(tool.name, {app.key: key}, _expects(impossible))], slots, report=field_name, facts=(key,)
    )


def _list(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app, name = application_of(tool), tool.form.field
    if impossible or any(place[0] == tool.application for place in draft.taken):
        return None
    value = draft.pick(list(app.fields[name].values))
    return _goal("list", tool, [Step(tool.name, {name: value})], {"value": value}, report="list", facts=(value,))


def _amount(draft: Draft, app: Application, name: str) -> int:
    return draft.rng.choice(AMOUNTS) * app.fields[name].step


def _lower(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    """Return a goal to take from a number; impossible means more than there is."""
    app, name = application_of(tool), tool.form.field
    key = draft.pick(draft.keys(tool))
    if key is None:
        return None
    amount = _amount(draft, app, name)
    if impossible:
        amount += draft.world.state[tool.application][key][name]
    step = Step(tool.name, {app.key: key, "amount": amount}, _expects(impossible))
    slots = {"it": app.words(key), "amount": amount}
    return _goal("lower", tool, [step], slots, report=name, missing="amount", facts=(key,))


def _transfer(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app, name = application_of(tool), tool.form.field
    keys = draft.keys(tool)
    if len(keys) < 2:
        return None
    source, target = draft.rng.sample(keys, 2)
    amount = _amount(draft, app, name)
    if impossible:
        amount += draft.world.state[tool.application][source][name]
    step = Step(tool.name, {"from": source, "to": target, "amount": amount}, _expects(impossible))
    slots = {"it": app.words(source), "it2": app.words(target), "amount": amount}
    return _goal("transfer", tool, [step], slots, report=name, missing="amount", facts=(source,))


def _add(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app = application_of(tool)
    key = draft.pick(draft.keys(tool) if impossible else draft.absent(tool))
    if key is None:
        return None
    values: dict[str, Any] = {
        name: draft.rng.randrange(spec.low, spec.high + 1, spec.step)
        if spec.is_number
        else draft.rng.choice(spec.values)
        for name, spec in app.fields.items()
    }
    details = " and ".join(f"{name} {value}" for name, value in values.items())
    step = Step(tool.name, {app.key: key, **values}, _expects(impossible))
    return _goal("add", tool, [step], {"it": app.words(key), "details": details}, facts=(key,))


def _claim(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app, form = application_of(tool), tool.form
    state = draft.world.state[tool.application]
    status = form.to if impossible else form.from_
    key, by = (
        draft.pick([k for k in draft.keys(tool) if state[k][form.field] == status]),
        draft.pick(list(holder_names())),
    )
    if key is None:
        return None
    step = Step(tool.name, {app.key: key, form.holder: by}, _expects(impossible))
    slots = {"it": app.words(key), "by": by}
    return _goal("claim", tool, [step], slots, facts=(key, by), missing=form.holder)


def _release(draft: Draft, tool: ToolSpec, impossible: bool) -> Goal | None:
    app, form = application_of(tool), tool.form
    state = draft.world.state[tool.application]
    status = form.to if impossible else form.from_
    key = draft.pick([k for k in draft.keys(tool) if state[k][form.field] == status])
    if key is None:
        return None
    step = Step(tool.name, {app.key: key}, _expects(impossible))
    return _goal("release", tool, [step], {"it": app.words(key)}, report=form.field, facts=(key,))


MAKERS: dict[str, Maker] = {
    "read": _read, "list": _list, "lower": _lower, "transfer": _transfer, "add": _add, "claim": _claim,
    "release": _release,
}  # fmt: skip
"""Operation -> the function that makes its goals of one call, where they are not those of `_one_record`."""


# --- two steps -------------------------------------------------------------------------------------------------


def _claim_any(draft: Draft, lister: ToolSpec, claimer: ToolSpec) -> Goal | None:
    app, form = application_of(claimer), claimer.form
    state = draft.world.state[claimer.application]
    if any(place[0] == claimer.application for place in draft.taken):
        return None
    if lister.form.field != form.field or not any(record[form.field] == form.from_ for record in state.values()):
        return None
    by = draft.pick(list(holder_names()))
    steps = [
        Step(lister.name, {form.field: form.from_}),
        Step(claimer.name, {app.key: PICK, form.holder: by}),
    ]
    return _goal("claim_any", claimer, steps, {"by": by}, report="pick", facts=(PICK, by), missing=form.holder)


def _set_if(draft: Draft, reader: ToolSpec, setter: ToolSpec) -> Goal | None:
    """Return a conditional request; if its condition does not hold, nothing but a read is expected."""
    app, name = application_of(setter), setter.form.field
    key = draft.pick(draft.keys(setter))
    if key is None:
        return None
    current = draft.world.state[setter.application][key][name]
    holds = draft.rng.random() < 0.6
    others = [value for value in app.fields[name].values if value != current]
    was = current if holds else draft.rng.choice(others)
    value = draft.rng.choice([value for value in app.fields[name].values if value != was])
    steps = [Step(reader.name, {app.key: key})]
    if holds:
        steps.append(Step(setter.name, {app.key: key, name: value}))
    return _goal("set_if", setter, steps, {"it": app.words(key), "was": was, "value": value}, report=name, facts=(key,))
