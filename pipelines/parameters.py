"""Check all parameters of a run against each stage's own model before any node starts."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.checked import suggestion
from engine.credentials import holds_credentials
from engine.errors import UserError
from pipelines.graph import parameter_model
from pipelines.stages_file import load_stages_file


def check_parameters(parameters: dict[str, Any], profile: str) -> None:
    """Check each stage's parameters.

    Args:
        parameters: all of them, one top-level key for each stage.
        profile: the profile's name, for the message.

    Raises:
        UserError: an unknown stage or key, a missing key, a value of the wrong kind; the field is named.

    """
    stages = load_stages_file().stages
    for name in parameters:
        if name not in stages:
            raise UserError(
                f"conf/{profile}/parameters: the top-level key {name!r} is no stage; choose one of {', '.join(stages)}."
            )
    for field, text in _texts(parameters):
        if holds_credentials(text):
            raise UserError(
                f"conf/base or conf/{profile}/parameters: {field} holds a password or key, which records and "
                "MLflow would show: take it out of the address and set it in the environment of the run."
            )
    for stage in stages:
        stage_parameters(stage, parameters.get(stage, {}), profile)


def stage_parameters(stage: str, parameters: dict[str, Any], profile: str) -> BaseModel:
    """Return one stage's parameters as an object of its model; raises UserError as `check_parameters` does."""
    try:
        model: BaseModel = parameter_model(stage).model_validate(parameters)
    except ValidationError as error:
        raise UserError(_sentence(error, stage, profile, parameters)) from error
    return model


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a value, keys of mappings too, each with the name of its field."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield field, str(name)
            yield from _texts(item, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, field)
    elif isinstance(value, str):
        yield field, value


def _sentence(error: ValidationError, stage: str, profile: str, parameters: dict[str, Any]) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in (stage, *first["loc"]))
    where = f"conf/base or conf/{profile}/parameters/{stage}.yml"
    if first["type"] == "extra_forbidden":
        *parents, name = first["loc"]
        known = _beside(parameters, parents, name) if parents else list(parameter_model(stage).model_fields)
        return f"{where}: there is no parameter {field}; {suggestion(str(name), known)}"
    if first["type"] == "missing":
        return f"{where}: the parameter {field} is missing; add it."
    return f"{where}: the parameter {field} is {first['input']!r}: {first['msg']}."


def _beside(block: Any, parents: Iterable[int | str], unknown: int | str) -> list[str]:
    """Return the names beside an unknown one in its block; those that the base values have are known."""
    for part in parents:
        if isinstance(block, dict) and part in block:  # an absent part is pydantic's name for a choice
            block = block[part]
    return [str(name) for name in block if name != unknown] if isinstance(block, dict) else []
