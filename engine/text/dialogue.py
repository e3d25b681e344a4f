"""Read a dialogue from a table's columns: OpenAI's messages and tools, each as JSON."""

import json
from typing import Any

from engine.errors import UserError
from engine.text.call_ids import normalise_call_ids

Dialogue = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def read_dialogue(messages: str, tools: str) -> Dialogue:
    """Return the messages of a dialogue, with K2's call ids, and the tools that it declares.

    Raises:
        UserError: either is not a JSON list of objects (cut, nested too deep, lone surrogates in it), there is no
            message, or calls and results cannot be paired. The caller adds which row it is.

    """
    try:
        dialogue, declared = _objects(messages), _objects(tools)
        if not dialogue:
            raise ValueError("there is no message")
        return normalise_call_ids(dialogue), declared
    except RecursionError:
        problem = "nested too deep"
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = str(error)
    raise UserError(f"messages or tools are not OpenAI's JSON ({problem})")


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the list of objects that a JSON text holds."""
    objects = json.loads(text)
    if not (isinstance(objects, list) and all(isinstance(item, dict) for item in objects)):
        raise ValueError("each must be a list of objects")
    if "\\ud" in text or "\\uD" in text:  # perhaps a surrogate without its other half, which no tokenizer can encode
        json.dumps(objects, ensure_ascii=False).encode()
    return objects
