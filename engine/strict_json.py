"""Read JSON from a language model strictly, so that all readers get the same value or all refuse it.

Python's own reader accepts what RFC 8259 leaves undefined (repeated keys, NaN, half a surrogate pair), and fails with
three kinds of errors on long or deep text. A tool, the judge and the reward must agree on a call.
"""

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
"""The most levels of nesting; fixed, so that the verdict does not depend on the caller's stack depth."""


def loads(text: str | bytes) -> Any:
    """Return the value of `text`.

    Raises:
        ValueError: the text is not JSON, nests more than `MAX_DEPTH` levels, repeats a key, or holds a number that is
            not finite or too long, or half a surrogate pair. No other exception is raised.

    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels within each other") from None
    _check(value)
    return value


def load_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `text` holds, or None if `loads` refuses it or it is not an object."""
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
    raise ValueError(f"{name} is not JSON")


def _check(value: Any) -> None:
    """Refuse what JSON's grammar allows but we do not, without recursion."""
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
