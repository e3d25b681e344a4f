"""Apply each operation to the records of its application: the semantics behind operations.yml.

Every function takes the records and checked arguments, changes the records in place, and returns what the agent is
shown; `cut` asks for a partial success where the operation can have one. A refusal changes nothing.
"""

from typing import Any

from engine.toolworld.specs import Application, ToolSpec, application_of

Records = dict[str, dict[str, Any]]
Applied = tuple[dict[str, Any], bool]
"""The result shown to the agent, and whether it was cut short."""


class Refused(Exception):
    """The state does not allow the call (not found, not enough, ...); the text is shown to the agent."""


def apply_operation(tool: ToolSpec, records: Records, arguments: dict[str, Any], cut: bool = False) -> Applied:
    """Carry out `tool` on `records`; if it raises `Refused`, `records` are unchanged."""
    app, form = application_of(tool), tool.form
    match form.does:
        case "list":
            return _list(app, records, form.field, arguments[form.field], cut)
        case "transfer":
            return _transfer(records, form.field, arguments, cut)
        case "add":
            return _add(app, records, arguments), False
    key = arguments[app.key]
    record = _record(records, key)
    match form.does:
        case "read":
            return dict(record), False
        case "set":
            record[form.field] = arguments[form.field]
        case "raise":
            return _shift(record, form.field, _positive(arguments["amount"]), 1, cut)
        case "lower":
            return _shift(record, form.field, _positive(arguments["amount"]), -1, cut)
        case "remove":
            del records[key]
            return {"ok": True}, False
        case "claim":
            if record[form.field] != form.from_:
                raise Refused(f"not {form.from_}")
            record.update({form.field: form.to, form.holder: arguments[form.holder]})
        case "release":
            if record[form.field] != form.from_:
                raise Refused(f"not {form.from_}")
            record.update({form.field: form.to, form.holder: ""})
    return {"ok": True, form.field: record[form.field]}, False


def _record(records: Records, key: str) -> dict[str, Any]:
    if key not in records:
        raise Refused("not found")
    return records[key]


def _positive(amount: int) -> int:
    if amount <= 0:
        raise Refused("bad amount")
    return amount


def _list(app: Application, records: Records, field: str, value: Any, cut: bool) -> Applied:
    keys = [key for key, record in records.items() if record[field] == value]
    if cut and len(keys) > 1:
        return {app.entities: keys[: len(keys) // 2], "more": True}, True
    return {app.entities: keys}, False


def _part(amount: int, cut: bool) -> int:
    """Return how much of `amount` is done: all, or about half when cut; one unit cannot be cut."""
    return amount - amount // 2 if cut else amount


def _shift(record: dict[str, Any], field: str, amount: int, sign: int, cut: bool) -> Applied:
    if sign < 0 and record[field] < amount:
        raise Refused("not enough")
    done = _part(amount, cut)
    record[field] += sign * done
    if done < amount:
        return {"ok": False, "done": done, "left": amount - done}, True
    return {"ok": True, field: record[field]}, False


def _transfer(records: Records, field: str, arguments: dict[str, Any], cut: bool) -> Applied:
    source, target = _record(records, arguments["from"]), _record(records, arguments["to"])
    amount = _positive(arguments["amount"])
    if source is target:
        raise Refused("same name twice")
    shown, was_cut = _shift(source, field, amount, -1, cut)
    target[field] += _part(amount, cut)
    return shown, was_cut


def _add(app: Application, records: Records, arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments[app.key] in records:
        raise Refused("already there")
    records[arguments[app.key]] = {app.key: arguments[app.key], **{f: arguments[f] for f in app.fields}}
    return {"ok": True}
