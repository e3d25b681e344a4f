"""Check that a tool call is well formed: JSON, an object, and valid under the tool's schema."""

from functools import cache
from typing import Any

import jsonschema

from engine import strict_json
from engine.toolworld.specs import ToolSpec, load_tools


@cache
def _validator(tool_name: str) -> jsonschema.Draft202012Validator:
    # An undeclared parameter is the caller's mistake; the declaration leaves out `additionalProperties` only to stay
    # short.
    schema = {**load_tools()[tool_name].parameters, "additionalProperties": False}
    return jsonschema.Draft202012Validator(schema)


def argument_problems(tool: ToolSpec, arguments: Any) -> list[str]:
    """Return the problems of parsed `arguments` for `tool`, one short sentence per problem; empty if there is none."""
    return sorted(error.message for error in _validator(tool.name).iter_errors(arguments))


def validate_call(tool: ToolSpec | None, arguments_json: str) -> list[str]:
    """Return the problems of a call as a model wrote it; `tool` is None if the call names a tool that is not there."""
    if tool is None:
        return ["no such tool"]
    try:
        arguments = strict_json.loads(arguments_json)
    except ValueError:
        return ["arguments are not JSON"]
    return argument_problems(tool, arguments)
