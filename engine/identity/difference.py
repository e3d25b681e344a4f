"""Compare the parts of two stage keys, piece by piece."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.identity.fingerprint import KINDS
from engine.identity.key import flatten

ABSENT = "absent"
_DIGEST = re.compile(r"[0-9a-f]{32}")
OLDER = "fingerprint"
"""The kind of the one change that covers all code of a record whose fingerprint was made in another way."""

NOUNS = {"definitions": "definition", "files": "file", "catalog": "catalog entry", "distributions": "distribution"}


@dataclass(frozen=True)
class Change:
    """One piece that differs.

    `kind`: parameter, source, input, definition, file, catalog entry, distribution, fingerprint.
    """

    kind: str
    name: str
    old: str
    new: str

    def __str__(self) -> str:
        if self.kind == OLDER:
            return "its last run was made under an older fingerprint"
        if self.kind in {"parameter", "distribution"} or (self.kind == "source" and self._is_stated):
            return f"{self.kind} {self.name}: {self.old} → {self.new}"
        if self.kind == "definition" and ABSENT in (self.old, self.new):
            return f"definition {self.name} is {'newly' if self.old == ABSENT else 'no longer'} reached"
        how = "is new" if self.old == ABSENT else "is gone" if self.new == ABSENT else "changed"
        return f"{self.kind} {self.name} {how}"

    @property
    def _is_stated(self) -> bool:
        """Whether both identities of a source are words (a version, an ETag), neither a digest nor absent."""
        return not any(identity == ABSENT or _DIGEST.fullmatch(identity) for identity in (self.old, self.new))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return every change between the parts of a run record (flat parameters) and today's (nested or flat)."""
    if set(old["code"]) != set(KINDS):
        return [Change(OLDER, "", "", ""), *_parameters(old, new), *_sources(old, new), *_inputs(old, new)]
    return [*_parameters(old, new), *_sources(old, new), *_inputs(old, new), *_code(old["code"], new["code"])]


def _parameters(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    then, now = flatten(old["parameters"]), flatten(new["parameters"])
    for name in sorted({*then, *now}):
        a, b = then.get(name, ABSENT), now.get(name, ABSENT)
        if a != b:
            yield Change("parameter", name, str(a), str(b))


def _sources(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Yield changes of files and packages that parameters name, by their own name, whichever field names them."""
    then, now = (
        {k: v for identities in parts.get("sources", {}).values() for k, v in identities.items()}
        for parts in (old, new)
    )
    for name in sorted({*then, *now}):
        a, b = then.get(name, ABSENT), now.get(name, ABSENT)
        if a != b:
            yield Change("source", name, a, b)


def _inputs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    for name in sorted({*old["inputs"], *new["inputs"]}):
        a, b = (str(parts["inputs"].get(name) or ABSENT) for parts in (old, new))
        if a != b:
            yield Change("input", name, a, b)


def _code(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> Iterator[Change]:
    for kind in KINDS:
        then, now = old[kind], new[kind]
        for name in sorted({*then, *now}):
            a, b = then.get(name, ABSENT), now.get(name, ABSENT)
            if a != b:
                yield Change(NOUNS[kind], name, a, b)
