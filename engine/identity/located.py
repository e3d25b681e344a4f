"""Find the files that a parameter names, and what their store says of them; used by the key and by the readers."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError

_STRONG = (
    "ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "Content-MD5", "content_md5", "Digest",
    "sha256", "checksum", "blob_id", "oid", "sha",
)  # fmt: skip
"""Field names that stores use for a checksum or a version of a file's content."""
_TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created", "CRC")
_HUB = ("hf://", "huggingface://")
_CHECK = "check the address, the network and, for hf:// or s3://, that its fsspec package is installed"
_CACHING = re.compile(r"(?:^|::)(simplecache|filecache|blockcache|cached)(?:::|:)")


@dataclass(frozen=True)
class Source:
    """The file or files that one field of the parameters names."""

    field: str
    path: str
    revision: str | None = None


@dataclass(frozen=True)
class Match:
    """A file that a source's path matches: its path in `file_system` (fsspec's), and the information there."""

    path: str
    file_system: Any
    info: dict[str, Any]


def matches(source: Source, root: Path = Path()) -> list[Match]:
    """Return the files that a source's path matches, in the order of their names.

    Raises:
        UserError: there is no file, it cannot be reached, or the path is that of a directory.

    """
    try:
        candidates = _candidates(_at_revision(source), root)
    except UserError:
        raise
    except Exception as error:  # fsspec's back ends raise errors of any type: name resolution, TLS, HTTP, import
        remedy = "check the path and its permissions" if is_local(source.path) else _CHECK
        problem = f"cannot be reached ({type(error).__name__}: {_first_line(error)})"
        raise UserError(f"{source.field}: {source.path} {problem}; {remedy}") from None
    if not candidates:
        raise UserError(f"{source.field}: there is no file at {source.path}; correct the path or take the source out")
    if [match.info.get("type") for match in candidates] == ["directory"]:
        raise UserError(
            f"{source.field}: {source.path} is a directory; name its files, such as {source.path.rstrip('/')}/*"
        )
    files = [match for match in candidates if match.info.get("type") != "directory"]
    for match in files:
        if match.info.get("type") not in {"file", None}:
            raise UserError(f"{source.field}: {match.path} is not a regular file; name one")
    if not files:
        raise UserError(f"{source.field}: {source.path} matches only directories; name their files")
    return sorted(files, key=lambda match: match.path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def is_local(path: str) -> bool:
    """Return whether a source's path is on this machine's file system."""
    return "://" not in path or path.startswith(("file://", "local://"))


def stamps(source: Source, root: Path) -> Iterator[str]:
    """Yield path, size and time of each local file that a source names; nothing if there is none, or it is remote."""
    if is_local(source.path):
        try:
            local = matches(source, root)
        except UserError:
            return
        for match in local:
            yield f"{match.path} {match.info.get('size')} {match.info.get('mtime')} {match.info.get('ino')}\n"


def _candidates(source: Source, root: Path) -> list[Match]:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    path = source.path
    if caching := _CACHING.search(path):
        raise UserError(
            f"{source.field}: {path} reads through {caching[1]}, whose copy may be older than the file; name the file "
            "itself"
        )
    if "://" in path:
        file_system, inside = fsspec.core.url_to_fs(path)
    else:
        file_system, inside = LocalFileSystem(), os.path.join(root.absolute(), os.path.expanduser(path))
    file_system.invalidate_cache()  # an earlier listing may be out of date
    is_literal = isinstance(file_system, LocalFileSystem) and os.path.exists(inside)  # names may contain [, * or ::
    patterns = "*[" if path.startswith("http") else "*?["
    if not is_literal and any(character in inside for character in patterns):
        listing = file_system.glob(inside, detail=True)
        return [Match(name, file_system, info) for name, info in listing.items()]
    info = info_of(file_system, inside)
    return [] if info is None else [Match(inside, file_system, info)]


def info_of(file_system: Any, path: str) -> dict[str, Any] | None:
    """Return a store's information on a file; None if there is none. A network failure raises instead."""
    try:
        return dict(file_system.info(path))
    except FileNotFoundError as error:
        cause = error.__cause__
        of_network = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
        if cause is not None and of_network and getattr(cause, "status", None) not in {404, 410}:
            raise cause from None
        return None


def stated(info: dict[str, Any]) -> str | None:
    """Return what identifies a file's content in its store's information: a checksum or version, else size and time."""
    for name in _STRONG:
        if value := info.get(name):
            return f"{name} {value.hex() if isinstance(value, bytes) else value}"
    size = info.get("size", info.get("Size"))
    for name in _TIMES:
        if (value := info.get(name)) and size is not None:
            return f"{size} bytes, {name} {value}"
    return None


def is_hub(path: str) -> bool:
    """Return whether a path is on the Hugging Face hub, which identifies a state by its commit."""
    return path.startswith(_HUB)


def _at_revision(source: Source) -> Source:
    """Return the source with the hub's revision in its path, where fsspec reads it."""
    if source.revision is None or not is_hub(source.path):
        return source
    (repository, _, inside) = hub_parts(source.path)
    return Source(source.field, f"{repository}@{source.revision}/{inside}", source.revision)


def hub_parts(path: str) -> tuple[str, str | None, str]:
    """Return repository with protocol, revision in the path, path inside: hf://datasets/owner/name@revision/inside."""
    protocol, _, rest = path.partition("://")
    parts = rest.split("/")
    length = 3 if parts[0] in {"datasets", "spaces", "models", "kernels"} else 2
    repository, _, revision = "/".join(parts[:length]).partition("@")
    return f"{protocol}://{repository}", revision or None, "/".join(parts[length:])
