"""Apply each operation of operations.yml to the records of its application: one function each, under its name.

A function takes a `Call`, changes its records in place, and returns what the agent is shown, and whether it was cut
short where the call asks for that and the operation can be. A refusal changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.toolworld.specs import Application, ToolForm, ToolSpec, application_of

Records = dict[str, dict[str, Any]]
Applied = tuple[dict[str, Any], bool]
"""The result shown to the agent, and whether it was cut short."""


class Refused(Exception):
    """The state does not allow the call (not found, not enough, ...); the text is shown to the agent."""


@dataclass(frozen=True)
class Call:
    """One call of a tool with checked arguments; `cut` asks for a partial success."""

    app: Application
    form: ToolForm
    records: Records
    arguments: dict[str, Any]
    cut: bool

    def record(self, argument: str = "") -> dict[str, Any]:
        """Return the record that an argument names, by default the application's key; refuse where there is none."""
        key = self.arguments[argument or self.app.key]
        if key not in self.records:
            raise Refused("not found")
        return self.records[key]

    def amount(self) -> int:
        """Return the amount; refuse one that is not positive."""
        if self.arguments["amount"] <= 0:
            raise Refused("bad amount")
        amount: int = self.arguments["amount"]
        return amount

    def done(self, record: dict[str, Any]) -> Applied:
        """Return success, with the field that was worked on as it is now."""
        return {"ok": True, self.form.field: record[self.form.field]}, False


Operate = Callable[[Call], Applied]
_FUNCTIONS: dict[str, Operate] = {}


def operation(name: str) -> Callable[[Operate], Operate]:
    """Make a function the operation `name` of operations.yml."""

    def register(function: Operate) -> Operate:
        _FUNCTIONS[name] = function
        return function

    return register


def apply_operation(tool: ToolSpec, records: Records, arguments: dict[str, Any], cut: bool = False) -> Applied:
    """Carry out `tool` on `records`; if it raises `Refused`, `records` are unchanged."""
    if tool.form.does not in _FUNCTIONS:
        raise UserError(f"engine/toolworld/apply.py has no function for the operation {tool.form.does!r}: write one.")
    return _FUNCTIONS[tool.form.does](Call(application_of(tool), tool.form, records, arguments, cut))


@operation("read")
def _read(call: Call) -> Applied:
    return dict(call.record()), False


@operation("list")
def _list(call: Call) -> Applied:
    field, entities = call.form.field, call.app.entities
    keys = [key for key, record in call.records.items() if record[field] == call.arguments[field]]
    if call.cut and len(keys) > 1:
        return {entities: keys[: len(keys) // 2], "more": True}, True
    return {entities: keys}, False


@operation("set")
def _set(call: Call) -> Applied:
    record = call.record()
    record[call.form.field] = call.arguments[call.form.field]
    return call.done(record)


@operation("raise")
def _raise(call: Call) -> Applied:
    return _shift(call, call.record(), call.amount(), 1)


@operation("lower")
def _lower(call: Call) -> Applied:
    return _shift(call, call.record(), call.amount(), -1)


@operation("transfer")
def _transfer(call: Call) -> Applied:
    source, target = call.record("from"), call.record("to")
    amount = call.amount()
    if source is target:
        raise Refused("same name twice")
    shown, was_cut = _shift(call, source, amount, -1)
    target[call.form.field] += _part(amount, call.cut)
    return shown, was_cut


@operation("add")
def _add(call: Call) -> Applied:
    key = call.app.key
    if call.arguments[key] in call.records:
        raise Refused("already there")
    call.records[call.arguments[key]] = {name: call.arguments[name] for name in (key, *call.app.fields)}
    return {"ok": True}, False


@operation("remove")
def _remove(call: Call) -> Applied:
    call.record()
    del call.records[call.arguments[call.app.key]]
    return {"ok": True}, False


@operation("claim")
def _claim(call: Call) -> Applied:
    return _hand_over(call, call.arguments[call.form.holder])


@operation("release")
def _release(call: Call) -> Applied:
    return _hand_over(call, "")


def _hand_over(call: Call, holder: str) -> Applied:
    record, form = call.record(), call.form
    if record[form.field] != form.from_:
        raise Refused(f"not {form.from_}")
    record.update({form.field: form.to, form.holder: holder})
    return call.done(record)


def _part(amount: int, cut: bool) -> int:
    """Return how much of `amount` is done: all, or about half when cut; one unit cannot be cut."""
    return amount - amount // 2 if cut else amount


def _shift(call: Call, record: dict[str, Any], amount: int, sign: int) -> Applied:
    if sign < 0 and record[call.form.field] < amount:
        raise Refused("not enough")
    done = _part(amount, call.cut)
    record[call.form.field] += sign * done
    if done < amount:
        return {"ok": False, "done": done, "left": amount - done}, True
    return call.done(record)
