"""Check what a configuration file holds against a pydantic model; what is wrong becomes one sentence."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from engine.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
FromOne = Annotated[int, Field(strict=True, ge=1)]
FromZero = Annotated[int, Field(strict=True, ge=0)]
"""Whole numbers; strict, since pydantic would otherwise take '8' and true for numbers."""


def checked(model: type[Model], content: Any, where: str, noun: str = "field", within: str = "") -> Model:
    """Return the content of a file, or of a part of one, as an object of its model.

    Args:
        model: what the content must be.
        content: what was read.
        where: the file and the place in it, with which the error sentence begins.
        noun: what the sentence calls a field.
        within: the name under which the content stands in the file, which the sentence puts before a field's name.

    Raises:
        UserError: the content is not what the model says; the field, its value and the remedy are named.

    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
    path = [part for part in first["loc"] if part != "[key]"]  # pydantic's mark of a name in a mapping
    name = ".".join(str(part) for part in (*([within] if within else []), *path))
    problem = _problem(first, f"the {noun} {name}" if name else "")
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        known = _names_beside(path, model, content)
        problem = f"the {noun} {name} is unknown; {suggestion(str(path[-1]), known)}"
    raise UserError(f"{where}: {problem}")  # without pydantic's own text, which shows what may be secret


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to write in place of an unknown name: the known one that was probably meant, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose one of {', '.join(names)}." if names else "remove it."


def _problem(error: ErrorDetails, field: str) -> str:
    """Return a problem that pydantic found, of a field or (where `field` is empty) of the content as a whole."""
    kind, message = error["type"], error["msg"].removeprefix("Value error, ").rstrip(".")
    if kind != "value_error":  # pydantic's own sentence
        message = message[0].lower() + message[1:]
    if kind == "missing":
        return f"{field} is missing; add it."
    if kind in {"model_type", "dataclass_type", "dict_type"}:
        return f"{field or 'it'} is {error['input']!r:.60}, not names with values; correct it."
    if kind in {"list_type", "tuple_type"}:
        return f"{field} is {error['input']!r:.60}, not a list; write one, such as [first, second]."
    end = "" if message.endswith("?") else "."
    if isinstance(error["input"], dict | list):  # a check of several fields, whose message names them
        return f"{field}: {message}{end}" if field else f"{message}{end}"
    return f"{field or 'it'} is {error['input']!r:.60}: {message}{end}"


def _names_beside(path: Sequence[int | str], model: Any, content: Any) -> list[str]:
    """Return the names that may stand where `path` ends: the model's, or else the others that the content has there."""
    models = [model]
    for part in path[:-1]:
        fields = [field for outer in models if (field := outer.__pydantic_fields__.get(part))]
        if fields:  # else it is an item of a list or mapping, or pydantic's name for one of several models
            models = [inner for field in fields for inner in _models(field.annotation)]
        if isinstance(content, dict) and part in content:
            content = content[part]
    if not models:
        return [str(name) for name in content if name != path[-1]] if isinstance(content, dict) else []
    return [field.alias or name for each in models for name, field in each.__pydantic_fields__.items()]


def _models(annotation: Any) -> list[Any]:
    """Return the models and dataclasses of pydantic in a type such as `dict[str, Model]` or `Model | None`."""
    if hasattr(annotation, "__pydantic_fields__"):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
