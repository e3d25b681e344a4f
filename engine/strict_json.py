"""JSON that a language model wrote, read so that every reader takes the same value from it or none does.

Python's own reader takes what RFC 8259 does not define alike for all (repeated keys, NaN, half a surrogate pair), and
ends in errors of three kinds on text that is long or deep. A tool, the judge and the reward must agree on a call.
"""

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Containers within each other; fixed, so that the verdict does not depend on how deep the caller's stack is."""


def loads(text: str | bytes) -> Any:
    """Return the value of `text`.

    Raises:
        ValueError: the text is no JSON, nests more than `MAX_DEPTH` deep, repeats a key, or holds a number that is
            not finite or too long, or half a surrogate pair. Never anything else.

    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels within each other") from None
    _check(value)
    return value


def load_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `text` holds, or None if `loads` refuses it or it is no object."""
    try:
        value = loads(text)
    except (ValueError, TypeError):  # TypeError: not text at all
        return None
    return value if isinstance(value, dict) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a key is repeated")
    return entries


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _check(value: Any) -> None:
    """Refuse what the grammar lets through, without recursion."""
    left = [(value, 1)]
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            item.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number is too large")
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} levels within each other")
            inner = [*item, *item.values()] if isinstance(item, dict) else item
            left += [(child, depth + 1) for child in inner]
