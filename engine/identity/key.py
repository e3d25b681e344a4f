"""The stage key, which answers the question "is it the same?"."""

from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.identity.fingerprint import fingerprint

KEY_LENGTH = 16


def stage_key(
    code: dict[str, dict[str, str]],
    parameters: dict[str, Any],
    inputs: dict[str, str],
    sources: dict[str, dict[str, str]] | None = None,
) -> str:
    """Return hash(code fingerprint, resolved parameters that the stage reads, content of what it reads), 16 hex digits.

    Args:
        code: the stage's `StageCode` as plain data.
        parameters: parameter name → resolved value, only those that the stage's nodes take.
        inputs: dataset → content digest, only those that come from other stages.
        sources: field of the parameters → file or package that it names → identity of its content (`sources`).

    """
    parts: dict[str, Any] = {"code": fingerprint(code), "parameters": parameters, "inputs": inputs}
    if sources:  # so that a stage without sources keeps the key it had before sources existed
        parts["sources"] = sources
    return digest_bytes(canonical_json(parts))[:KEY_LENGTH]


def flatten(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as dotted names → values; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{dotted}.")
        else:
            flat[dotted] = value
    return flat
