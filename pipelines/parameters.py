"""Check all parameters of a run against each stage's own model before any node starts."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from engine.checked import checked
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
    where = f"conf/base or conf/{profile}/parameters/{stage}.yml"
    model: type[BaseModel] = parameter_model(stage)
    return checked(model, parameters, where, noun="parameter", within=stage)


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
