"""Compute classes: where a node runs. Never part of what a stage is."""

from typing import Any

from engine.errors import UserError

LAUNCHERS = ("inplace", "local")


def launcher(compute: dict[str, Any], name: str) -> str:
    """The launcher of compute class `name`.

    Args:
        compute: conf/<profile>/compute.yml over conf/base/compute.yml: class → settings.
        name: cpu, llm or train.

    Raises:
        UserError: the class is missing, has an unknown field or an unknown launcher.

    """
    if name not in compute:
        raise UserError(f"compute.yml has no class {name!r}: add `{name}: {{ launcher: inplace }}`.")
    settings = compute[name]
    if not isinstance(settings, dict) or set(settings) != {"launcher"}:
        raise UserError(f"compute.yml: class {name} must have exactly the field launcher, not {settings!r}.")
    chosen = settings["launcher"]
    if chosen not in LAUNCHERS:
        raise UserError(
            f"compute.yml: class {name}, field launcher: {chosen!r} is unknown; choose one of {', '.join(LAUNCHERS)}."
        )
    return str(chosen)
