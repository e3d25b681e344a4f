"""Compute classes: where a node runs, and in how many processes. Never part of what a stage is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError

LAUNCHERS = ("inplace", "local")
_FIELDS = {"launcher", "processes"}


@dataclass(frozen=True)
class ComputeClass:
    """Where the nodes of a class run: in the driver (`inplace`) or in `processes` ranks beside it (`local`)."""

    launcher: str
    processes: int = 1


def check_compute(compute: dict[str, Any], names: Sequence[str]) -> None:
    """Refuse settings in which one of the classes `names` is missing or wrong, or that hold any other class."""
    for name in compute:
        if name not in names:
            raise UserError(f"compute.yml: there is no class {name!r}; choose one of {', '.join(names)}.")
    for name in names:
        compute_class(compute, name)


def compute_class(compute: dict[str, Any], name: str) -> ComputeClass:
    """The settings of compute class `name`.

    Args:
        compute: conf/<profile>/compute.yml over conf/base/compute.yml: class → settings.
        name: cpu, llm or train.

    Raises:
        UserError: the class is missing, has an unknown field, an unknown launcher or a number of processes that its
            launcher cannot start.

    """
    if name not in compute:
        raise UserError(f"compute.yml has no class {name!r}: add `{name}: {{ launcher: inplace }}`.")
    settings = compute[name]
    if not isinstance(settings, dict) or not {"launcher"} <= set(settings) <= _FIELDS:
        raise UserError(
            f"compute.yml: class {name} must have the field launcher and may have processes, nothing else; it is "
            f"{settings!r}."
        )
    chosen, processes = settings["launcher"], settings.get("processes", 1)
    if chosen not in LAUNCHERS:
        raise UserError(
            f"compute.yml: class {name}, field launcher: {chosen!r} is unknown; choose one of {', '.join(LAUNCHERS)}."
        )
    if type(processes) is not int or processes < 1:
        raise UserError(f"compute.yml: class {name}, field processes: {processes!r} is no whole number from 1 up.")
    if chosen == "inplace" and processes > 1:
        raise UserError(
            f"compute.yml: class {name} cannot run {processes} processes in place; choose launcher: local, or "
            "processes: 1."
        )
    return ComputeClass(str(chosen), processes)
