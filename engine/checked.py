"""Check what a configuration file holds against a pydantic model; what is wrong becomes one sentence."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError

from engine.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
FromOne = Annotated[int, Field(strict=True, ge=1)]
FromZero = Annotated[int, Field(strict=True, ge=0)]
"""Whole numbers; strict, since pydantic would otherwise take '8' and true for numbers."""


def checked(model: type[Model], content: Any, where: str) -> Model:
    """Return the content of a file, or of a part of one, as an object of its model.

    Args:
        model: what the content must be.
        content: what was read.
        where: the file and the place in it, with which the error sentence begins.

    Raises:
        UserError: the content is not what the model says; the field, its value and the remedy are named.

    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_problem(error, model)}") from None  # pydantic's own text shows what may be secret


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to write in place of an unknown name: the known one that was probably meant, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose one of {', '.join(names)}." if names else "remove it."


def _problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first problem that pydantic found."""
    first = error.errors()[0]
    path = [part for part in first["loc"] if part != "[key]"]  # pydantic's mark of a name in a mapping
    kind, message = first["type"], first["msg"].removeprefix("Value error, ").rstrip(".")
    if kind != "value_error":  # pydantic's own sentence
        message = message[0].lower() + message[1:]
    field = f"the field {'.'.join(str(part) for part in path)}" if path else "it"
    if kind == "missing":
        return f"{field} is missing; add it."
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{field} is unknown; {suggestion(str(path[-1]), _names_beside(path, model))}"
    if kind in {"model_type", "dataclass_type", "dict_type"}:
        return f"{field} is {first['input']!r:.60}, not names with values; correct it."
    if kind in {"list_type", "tuple_type"}:
        return f"{field} is {first['input']!r:.60}, not a list; write one, such as [first, second]."
    end = "" if message.endswith("?") else "."
    if isinstance(first["input"], dict | list):  # a check of several fields, whose message names them
        return f"{field}: {message}{end}" if path else f"{message}{end}"
    return f"{field} is {first['input']!r:.60}: {message}{end}"


def _names_beside(path: Sequence[int | str], model: Any) -> list[str]:
    """Return the names of the fields that may stand where `path` ends."""
    models = [model]
    for part in path[:-1]:  # an item of a list or of a mapping is no field
        fields = [outer.__pydantic_fields__.get(part) for outer in models]
        models = [inner for field in fields if field for inner in _models(field.annotation)] or models
    return [field.alias or name for each in models for name, field in each.__pydantic_fields__.items()]


def _models(annotation: Any) -> list[Any]:
    """Return the models and dataclasses of pydantic in a type such as `dict[str, Model]` or `Model | None`."""
    if hasattr(annotation, "__pydantic_fields__"):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
