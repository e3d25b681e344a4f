"""A stage's code fingerprint: everything in the code that can change what the stage makes.

It covers each definition that the stage can reach (in normal form), each non-Python file of the packages it imports
(prompts, templates), the catalog entries of its data, and the versions of the distributions it reaches.
"""

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.identity.library import Library
from engine.identity.reach import Reach, reach

PYTHON = "python"
KINDS = ("definitions", "files", "catalog", "distributions")


@dataclass(frozen=True)
class StageCode:
    """Name → hash (or version) for each part of a stage's code."""

    definitions: dict[str, str]
    files: dict[str, str]
    catalog: dict[str, str]
    distributions: dict[str, str]

    def as_dict(self) -> dict[str, dict[str, str]]:
        """Return plain data, as in data/<profile>/code/<stage>.json."""
        return {kind: getattr(self, kind) for kind in KINDS}


def fingerprint(code: dict[str, dict[str, str]]) -> str:
    """Return one hash over all parts of a stage's code."""
    return digest_bytes(canonical_json(code))


def stage_code(
    library: Library,
    entries: list[str],
    catalog: dict[str, Any],
    leave_out: frozenset[str] = frozenset(),
    waived: frozenset[str] = frozenset(),
    wiring: str = "",
) -> StageCode:
    """Fingerprint the code reachable from `entries`.

    Args:
        library: the repository's modules.
        entries: dotted names: the stage's pipeline module, its parameters' model, its dataset classes.
        catalog: the catalog entries of the stage's inputs and outputs, name → configuration without paths.
        leave_out: modules that are reached but cannot change what the stage makes.
        waived: distributions whose version does not count.
        wiring: the module whose functions' annotations Kedro may read.

    """
    reached = reach(library, entries, leave_out, wiring)
    folders = sorted({(library.root / module.path).parent for module in reached.modules.values()})
    return StageCode(
        definitions=_definitions(reached),
        files=dict(sorted(item for folder in folders for item in library.data_files(folder).items())),
        catalog={name: digest_bytes(canonical_json(entry)) for name, entry in sorted(catalog.items())},
        distributions={name: version for name, version in _versions(reached.foreign).items() if name not in waived},
    )


def _definitions(reached: Reach) -> dict[str, str]:
    """Return dotted name → hash, including annotations and docstrings if something may read them."""
    hashes = {name: digest_bytes(f"import {target}".encode()) for name, target in reached.reexports.items()}
    annotated = reached.annotated
    for name, definition in reached.definitions.items():
        hashes[name] = definition.form
        if reached.reads_text:
            hashes[name] = digest_bytes(f"{definition.form} {definition.annotations} {definition.docstrings}".encode())
        elif name in annotated:
            hashes[name] = digest_bytes(f"{definition.form} {definition.annotations}".encode())
    return dict(sorted(hashes.items()))


def _versions(names: set[str]) -> dict[str, str]:
    """Return distribution → version for imported top-level names, and Python's own.

    The local build tag (`+cpu`) does not count, nor does Python's patch level.
    """
    owners = _owners()
    reached = {PYTHON, *(distribution for name in names for distribution in owners.get(name, []))}
    return {name: _known_version(name) for name in sorted(reached)}


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Return distribution → version as installed now."""
    return {name: _version(name) for name in sorted(distributions)}


def _version(distribution: str) -> str:
    if distribution == PYTHON:
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


_known_version = cache(_version)


@cache
def _owners() -> dict[str, list[str]]:
    """Return import name → distributions that provide it, from each distribution's list of top-level names."""
    owners: dict[str, list[str]] = {}
    for distribution in importlib.metadata.distributions():
        tops = distribution.read_text("top_level.txt")
        name = distribution.metadata["Name"].lower()
        for top in tops.split() if tops else [name.replace("-", "_")]:
            owners.setdefault(top, []).append(name)
    return owners
