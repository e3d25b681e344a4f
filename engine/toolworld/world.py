"""The tool simulator as a world model: records that persist, and controlled randomness (K2 paper, 3.1.1).

A `World` is a function of (domain, seed): small tables of records. A call reads or writes them and ends in one of
K2's three outcomes: success, partial failure (a transfer cut short, a list cut off, a busy service), or an edge case
that follows from the state (not there, not enough, taken). Faults are keyed by (noise seed, number of the call), so
that an episode replays exactly.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UserError
from engine.keyed import keyed_random
from engine.toolworld.apply import Refused, apply_operation
from engine.toolworld.specs import Application, FieldSpec, ToolSpec, choose_domains, load_tools
from engine.toolworld.validate import argument_problems

Record = dict[str, Any]
State = dict[str, dict[str, Record]]
"""Application name -> key -> record."""
Diff = dict[tuple[str, str], Record | None]
"""(application, key) -> the fields that changed, or None if the record is gone."""
Outcome = Literal["ok", "edge", "busy", "partial", "invalid"]


@dataclass(frozen=True)
class FaultRates:
    """How often a valid call fails through nobody's fault; `most` limits the faults per episode."""

    busy: float = 0.0
    partial: float = 0.0
    most: int = 2

    def __post_init__(self) -> None:
        if min(self.busy, self.partial, self.most) < 0 or self.busy + self.partial > 1:
            raise UserError("fault rates must be at least 0 and add up to at most 1; correct parameters/tooluse.yml.")


@dataclass(frozen=True)
class ToolResult:
    """A tool's answer: its outcome and the JSON object that the agent is shown."""

    outcome: Outcome
    value: dict[str, Any]

    def text(self) -> str:
        """Return the result as compact JSON, which is the content of the tool's message."""
        return json.dumps(self.value, separators=(",", ":"))


@dataclass(frozen=True)
class LoggedCall:
    """One call that reached the world, with its result."""

    tool: str
    arguments: dict[str, Any]
    result: ToolResult


class World:
    """The state of one domain during one episode; `initial` stays as it was, `state` changes."""

    def __init__(self, domain: str, seed: int, faults: FaultRates | None = None, noise_seed: int = 0) -> None:
        applications = choose_domains([domain], "World")[domain].applications
        self.domain, self.seed, self.noise_seed = domain, seed, noise_seed
        self.faults = faults or FaultRates()
        self.initial: State = {name: _records(name, app, seed) for name, app in applications.items()}
        self.state: State = copy.deepcopy(self.initial)
        self.log: list[LoggedCall] = []
        self._fault_calls: list[int] = []

    def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Run tool `name`; a caller's mistake never raises, it gives the result "invalid"."""
        tool = load_tools().get(name)
        if tool is None or tool.domain != self.domain:
            result = ToolResult("invalid", {"error": "no such tool"})
        elif argument_problems(tool, arguments):
            result = ToolResult("invalid", {"error": "bad arguments"})
        else:
            result = self._run(tool, arguments)
        self.log.append(LoggedCall(name, copy.deepcopy(arguments), result))
        return result

    def diff(self) -> Diff:
        """Return the differences between the initial and the current state, by record."""
        changed: Diff = {}
        for app, before in self.initial.items():
            after = self.state[app]
            for key in sorted(before.keys() | after.keys()):
                old, new = before.get(key, {}), after.get(key)
                if new is None:
                    changed[app, key] = None
                elif fields := {field: value for field, value in new.items() if old.get(field) != value}:
                    changed[app, key] = fields
        return changed

    def _run(self, tool: ToolSpec, arguments: dict[str, Any]) -> ToolResult:
        fault = self._fault()
        if fault == "busy":
            return ToolResult("busy", {"error": "busy"})
        try:
            value, cut = apply_operation(tool, self.state[tool.application], arguments, cut=fault == "partial")
        except Refused as refusal:
            return ToolResult("edge", {"error": str(refusal)})
        return ToolResult("partial" if cut else "ok", value)

    def _fault(self) -> str:
        """Return this call's fault, if any; never two in a row, so that a patient agent always succeeds."""
        number = len(self.log)
        if len(self._fault_calls) >= self.faults.most or number - 1 in self._fault_calls:
            return ""
        draw = keyed_random(self.noise_seed, "fault", number).random()
        fault = (
            "busy" if draw < self.faults.busy else "partial" if draw < self.faults.busy + self.faults.partial else ""
        )
        if fault:
            self._fault_calls.append(number)
        return fault


def _records(name: str, app: Application, seed: int) -> dict[str, Record]:
    """Return five or six records of an application, in the order of the application's keys."""
    rng = keyed_random(seed, "records", name)
    keys = set(rng.sample(app.keys, min(len(app.keys), rng.randint(5, 6))))
    records = {key: {app.key: key, **_fields(name, app, seed, key)} for key in app.keys if key in keys}
    for form in app.tools.values():
        if form.does == "claim":
            for key, record in records.items():
                _agree(record, form.field, form.to, form.holder, f"{seed}:{name}:{key}")
    return records


def _fields(name: str, app: Application, seed: int, key: str) -> Record:
    return {field: draw_value(spec, seed, "field", name, key, field) for field, spec in app.fields.items()}


def _agree(record: Record, field: str, taken: str, holder: str, key: str) -> None:
    """Give a record that is taken a holder."""
    if record[field] == taken:
        names = holder_names()
        record[holder] = names[keyed_random(key, "holder").randrange(len(names))]


def holder_names() -> tuple[str, ...]:
    """Return the names that a record's holder may have in any domain: letters, the keys of bank accounts."""
    return choose_domains(["bank"], "World")["bank"].applications["accounts"].keys


def draw_value(spec: FieldSpec, *key: object) -> str | int:
    """Return a value that `spec` allows, as a function of `key`."""
    rng = keyed_random(*key)
    if spec.is_number:
        return rng.randrange(spec.low, spec.high + 1, spec.step)
    return rng.choice(spec.values)
