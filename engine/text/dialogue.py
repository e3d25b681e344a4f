"""A dialogue as tables hold it: OpenAI's messages and tools, each as JSON."""

import json
from typing import Any

from engine.errors import UserError
from engine.text.call_ids import normalise_call_ids

Dialogue = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def read_dialogue(messages: str, tools: str) -> Dialogue:
    """Return the messages of a dialogue, calls' ids in K2's form, and the tools that it declares.

    Raises:
        UserError: either is not JSON of the wanted kind (cut, nested too deep, half characters in it), there is no
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
    """The list of objects that a text of JSON holds."""
    found = json.loads(text)
    if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        raise ValueError("each must be a list of objects")
    if "\\ud" in text or "\\uD" in text:  # maybe a surrogate without its other half, which no tokenizer can encode
        json.dumps(found, ensure_ascii=False).encode()
    return found
