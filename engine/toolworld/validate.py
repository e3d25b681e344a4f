"""Whether a tool call is well formed: JSON, an object, and what the tool's schema asks for."""

from functools import cache
from typing import Any

import jsonschema

from engine import strict_json
from engine.toolworld.specs import ToolSpec, load_tools


@cache
def _validator(tool_name: str) -> jsonschema.Draft202012Validator:
    # A parameter that the tool does not declare is a mistake of the caller; the declaration leaves
    # `additionalProperties` out only to stay short.
    schema = {**load_tools()[tool_name].parameters, "additionalProperties": False}
    return jsonschema.Draft202012Validator(schema)


def argument_problems(tool: ToolSpec, arguments: Any) -> list[str]:
    """What is wrong with parsed `arguments` for `tool`, one short sentence a problem; empty when nothing is."""
    return sorted(error.message for error in _validator(tool.name).iter_errors(arguments))


def validate_call(tool: ToolSpec | None, arguments_json: str) -> list[str]:
    """What is wrong with a call as a model wrote it; `tool` is None when it named a tool that it was not given."""
    if tool is None:
        return ["no such tool"]
    try:
        arguments = strict_json.loads(arguments_json)
    except ValueError:
        return ["arguments are not JSON"]
    return argument_problems(tool, arguments)
