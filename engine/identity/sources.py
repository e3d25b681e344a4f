"""Identify by content what a stage reads from outside the graph: files and URLs in parameters, packages' data.

A parameters' model declares such a field as a `SourcePath`; a model that reads the data of an installed package names
it in a property `packages_read`. Both are found in the validated parameters of any stage, and their identity becomes
part of the stage's key: a file's digest, a remote file's ETag, version or checksum as its store states it, a `revision`
next to the path in the parameters, a package's version.
"""

import os
import re
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from engine.artifacts.files import canonical_json, digest_bytes
from engine.errors import UserError
from engine.identity.digests import Digests
from engine.identity.located import Match, Source, hub_parts, info_of, is_hub, matches, stated

UNVERSIONED = "not versioned by its store"
"""Identity of a remote file that has none, so that its edits stay unnoticed."""
Identities = dict[str, dict[str, str]]
"""Field of the parameters → file (or package) → its identity."""

PYTHON, LIBRARY = "python", "Python's library"
"""The name of Python's own library in `packages_read`, and the name under which its identity is shown."""
_NO_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})
_OF_THE_BUILD = "_sysconfigdata"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class SourcePath(str):
    """A parameter that names a file to read: a path (relative to the repository), a glob, or an fsspec URL."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate the value as a string that is not empty."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))


class SourceSettings(BaseModel):
    """The settings in conf/<profile>/sources.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unversioned: Literal["warn", "refuse"]


def named(value: Any, field: str, revision: str | None = None) -> Iterator[Source]:
    """Yield every `SourcePath` in validated parameters; a field `revision` of the same model belongs to it."""
    if isinstance(value, SourcePath):
        yield Source(field, value, revision)
    elif isinstance(value, BaseModel):
        beside = getattr(value, "revision", None)
        for name in type(value).model_fields:
            yield from named(getattr(value, name), f"{field}.{name}", beside)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from named(item, f"{field}.{name}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from named(item, f"{field}.{number}", revision)


def packages(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield field and name of every installed package whose data validated parameters use."""
    if isinstance(value, BaseModel):
        yield from ((field, name) for name in getattr(value, "packages_read", ()))
        for name in type(value).model_fields:
            yield from packages(getattr(value, name), f"{field}.{name}")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from packages(item, f"{field}.{name}")


def identities(parameters: BaseModel, stage: str, root: Path, digests: Digests) -> Identities:
    """Return the identity of everything that a stage's validated parameters name.

    Raises:
        UserError: a path matches nothing, or cannot be reached or read; a package is not installed; a revision can
        move.

    """
    result: Identities = {}
    for source in named(parameters, stage):
        result[source.field] = of_source(source, root, digests)
    for field, name in packages(parameters, stage):
        of_python = name == PYTHON
        identity = python_library(digests) if of_python else package_version(field, name)
        result.setdefault(field, {})[LIBRARY if of_python else f"package {name}"] = identity
    return result


def of_source(source: Source, root: Path, digests: Digests) -> dict[str, str]:
    """Return file → identity for all files that one path matches; for a revision, the path → that revision."""
    if source.revision is not None or is_hub(source.path):
        revision = _settled(source)
        if revision is not None:
            return {source.path: f"revision {revision}"}
    return {_name(match, root): _identity(match, digests) for match in matches(source, root)}


def in_words(files: dict[str, str]) -> str:
    """Return the identity of one source in a few words, for a data card."""
    if len(files) == 1:
        return next(iter(files.values()))
    return f"{len(files)} files, together {digest_bytes(canonical_json(files))}"


def package_version(field: str, name: str) -> str:
    """Return the version of an installed package; raises UserError if it is not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        raise UserError(
            f"{field} needs the package {name}, which is not installed: `pip install --no-deps {name}`, or take it out "
            "of the parameters."
        ) from None


def python_library(digests: Digests) -> str:
    """Return one digest of the modules of the running Python's library, which a corpus may read as text.

    It is needed because builds of one version differ; the patch level and the tests do not count.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    digest_of = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in _NO_LIBRARY]
        for name in names:
            if name.endswith(".py") and not name.startswith(_OF_THE_BUILD):
                path = Path(folder, name)
                digest_of[path.relative_to(root).as_posix()] = digests.of(path)
    return digest_bytes(canonical_json(digest_of))


def _identity(match: Match, digests: Digests) -> str:
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(match.file_system, LocalFileSystem):
        return digests.of(Path(match.path))
    return stated(match.info) or stated(info_of(match.file_system, match.path) or {}) or UNVERSIONED


def _name(match: Match, root: Path) -> str:
    """Return a file's name for people: relative to the repository if it is inside, else its whole path or address."""
    from fsspec.implementations.local import LocalFileSystem

    if not isinstance(match.file_system, LocalFileSystem):
        return str(match.file_system.unstrip_protocol(match.path))
    path = Path(match.path)
    return path.relative_to(root.absolute()).as_posix() if path.is_relative_to(root.absolute()) else str(path)


def _settled(source: Source) -> str | None:
    """Return the revision that a source names, which must be immutable; None for a hub path without one."""
    if not is_hub(source.path):
        return source.revision
    in_path = hub_parts(source.path)[1]
    revision = source.revision or in_path
    if in_path is not None and in_path != revision:
        raise UserError(f"{source.field}: {source.path} names {in_path} and revision names {revision}; keep one")
    if revision is not None and not _COMMIT.fullmatch(revision):
        raise UserError(
            f"{source.field}: the revision {revision!r} of {source.path} can move; give the commit, its 40 hexadecimal "
            "digits"
        )
    return revision
