"""operations.yml and apply.py together: each operation has its words and its function, and a faulty one is refused."""

import pytest

from engine.errors import UserError
from engine.toolworld import apply, specs


def test_each_operation_has_a_function_and_each_function_an_operation():
    assert set(specs.tool_operations()) == set(apply._FUNCTIONS)


def test_an_operation_without_a_function_is_refused_by_name(monkeypatch):
    tool = specs.load_tools()["get_account"]
    monkeypatch.delitem(apply._FUNCTIONS, "read")
    with pytest.raises(UserError, match=r"apply\.py has no function for the operation 'read'"):
        apply.apply_operation(tool, {}, {})


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"arguments": ["key"], "returns": ["ok"]}, r"operations\.yml: turn: the field description is missing"),
        (
            {"description": "Turn.", "arguments": "key", "returns": ["ok"]},
            r"operations\.yml: turn: the field arguments is 'key', not a list",
        ),
        (
            {"description": "T.", "arguments": ["key"], "returns": [], "missing": "it"},
            r"operations\.yml: turn: the field missing is",
        ),
    ],
)
def test_a_faulty_operation_is_refused_by_field(form, words, monkeypatch):
    monkeypatch.setattr(specs, "operations", lambda: {"turn": form})
    with pytest.raises(UserError, match=words):
        specs.tool_operations.__wrapped__()
