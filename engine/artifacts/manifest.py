"""manifest.json lists what a directory holds, so that a loader can refuse a partial or foreign directory.

It contains only what the content determines (schema version, stage, dataset, each file's hash and size, row
counts). Who made the directory, when, and how long it took are in the run record.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, StrictInt, StrictStr, ValidationError

from engine.artifacts.files import canonical_json, digest_bytes, digest_file, files_below, read_object, write_atomic
from engine.artifacts.names import BadName, checked_names, refuse_links
from engine.artifacts.sums import SUMS
from engine.errors import UserError
from engine.remedy import make_again

MANIFEST = "manifest.json"
SCHEMA = 1


class SealedFile(BaseModel):
    """What a manifest says of a file."""

    blake2b: StrictStr
    size: StrictInt


class Manifest(BaseModel):
    """The fields of a manifest; `version` is judged by whoever knows which one it reads."""

    version: Any = Field(alias="schema")
    stage: StrictStr
    dataset: StrictStr
    counts: dict[str, Any] = {}
    files: dict[str, SealedFile]


def seal(
    directory: Path, *, stage: str, dataset: str, counts: dict[str, Any], digests: dict[str, str] | None = None
) -> dict[str, Any]:
    """Write the manifest of all files below `directory` and return it.

    Args:
        directory: a finished directory with at least one file.
        stage: the stage that made the directory.
        dataset: the dataset's name in the catalog.
        counts: rows, columns or anything else that the content determines.
        digests: path → blake2b where they are known already (engine/artifacts/sums); without it every file is read.

    Raises:
        UserError: the directory is empty, or contains a link, a device, or a file name that a manifest cannot have.

    """
    try:
        refuse_links(directory)
        checked_names(_sizes(directory))
    except BadName as error:
        raise UserError(f"{dataset}: what stage {stage} made cannot be published: {error}.") from error
    files = {
        name: {"blake2b": digests[name] if digests else digest_file(directory / name), "size": size}
        for name, size in _sizes(directory).items()
    }
    if not files:
        raise UserError(f"{dataset}: stage {stage} left {directory} empty; nothing was published.")
    manifest = {"schema": SCHEMA, "stage": stage, "dataset": dataset, "counts": counts, "files": files}
    write_atomic(directory / MANIFEST, canonical_json(manifest))
    return manifest


def _sizes(directory: Path) -> dict[str, int]:
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in files_below(directory)
        if path.name not in {MANIFEST, SUMS}
    }


def read_manifest(directory: Path, *, stage: str, dataset: str) -> dict[str, Any]:
    """Read a directory's manifest and check its schema version, stage and dataset.

    Raises:
        UserError: the manifest is missing, not JSON, of another schema version, or of another dataset.

    """
    path = directory / MANIFEST
    remedy = make_again(stage, directory)
    if not directory.exists():
        raise UserError(f"{directory} is missing: {remedy}.")
    if not path.is_file():
        raise UserError(f"{directory} has no {MANIFEST}, so it is partial or was not made by this pipeline: {remedy}.")
    manifest = parsed(path, remedy)
    identity = manifest["schema"], manifest["stage"], manifest["dataset"]
    if identity[0] != SCHEMA:
        raise UserError(f"{path}: field schema is {identity[0]!r}, this version reads {SCHEMA}: {remedy}.")
    if identity[1:] != (stage, dataset):
        raise UserError(f"{path}: it belongs to {identity[1]}/{identity[2]}, not to {stage}/{dataset}: {remedy}.")
    return manifest


def parsed(path: Path, remedy: str) -> dict[str, Any]:
    """Read a manifest of any stage and check that it has all fields and lists only files of its own directory.

    Raises:
        UserError: it is not JSON, lacks a field, or lists a path outside its directory; `remedy` ends the message.

    """
    manifest = read_object(path, remedy)
    try:
        sealed = Manifest.model_validate(manifest)
        if MANIFEST in checked_names(sealed.files):
            raise BadName(f"{MANIFEST!r} lists itself")
    except BadName as error:
        raise UserError(f"{path}: field files: {error}, so it was not made by this pipeline: {remedy}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is not a manifest of this pipeline (field {field}: {first['msg'].lower()}): {remedy}."
        ) from None
    return manifest


class Damaged(UserError):
    """A file of a sealed directory differs from its manifest; `what` says how, without path and remedy."""

    def __init__(self, directory: Path, name: str, harm: str, remedy: str) -> None:
        super().__init__(f"{directory / name} {harm}: {remedy}.")
        self.what = f"{name} {harm}"


def verify(directory: Path, *, stage: str, dataset: str, since: float | None = None) -> dict[str, Any]:
    """Check every file of a published directory against its manifest; return the manifest.

    Args:
        directory: the published directory.
        stage: the stage that made it.
        dataset: the dataset's name in the catalog.
        since: only the size is checked of files not modified since this time (POSIX seconds); None reads every file.

    Raises:
        UserError: a file is missing, truncated, changed, not in the manifest, a link or a device.

    """
    manifest = read_manifest(directory, stage=stage, dataset=dataset)
    remedy = make_again(stage, directory)
    try:
        refuse_links(directory, cached=True)
    except BadName as error:
        raise UserError(f"{error}: {remedy}.") from error
    for name, want in manifest["files"].items():
        if wrong := harm(directory / name, want, since):
            raise Damaged(directory, name, wrong, remedy)
    known = {*manifest["files"], MANIFEST}
    for path in files_below(directory):
        name = path.relative_to(directory).as_posix()
        if name not in known:
            raise Damaged(directory, name, f"is not in {MANIFEST}", f"remove it, or {remedy}")
    return manifest


def harm(path: Path, want: dict[str, Any], since: float | None = None, content: bool = True) -> str | None:
    """Return what is wrong with a file that a manifest lists as `want`, in words; None if nothing is.

    A file not modified since `since`, or any file if `content` is false, is judged by its size alone.
    """
    if not path.is_file():
        return f"is missing although {MANIFEST} lists it"
    state = path.stat()
    if state.st_size != want["size"]:
        how = "truncated" if state.st_size < want["size"] else "longer than sealed"
        return f"is {how}, {state.st_size} bytes where {MANIFEST} says {want['size']}"
    if content and (since is None or state.st_mtime >= since) and digest_file(path) != want["blake2b"]:
        _mark_as_touched(path)
        return f"does not match its hash in {MANIFEST}, so it was changed after sealing"
    return None


def _mark_as_touched(path: Path) -> None:
    """Set the time of a silently damaged file to now, and make it writable, so that DVC rereads it.

    DVC trusts a file whose time is as it was, and, where its cache is linked to outputs, what is read-only in there.
    """
    with contextlib.suppress(OSError):  # the disk is read-only: the caller's error names the file all the same
        os.utime(path)
        path.chmod(0o644)


def content_digest(directory: Path) -> str | None:
    """Return the digest of a published directory's manifest, which holds each file's digest; None if it has none."""
    path = directory / MANIFEST
    return digest_bytes(path.read_bytes()) if path.is_file() else None
