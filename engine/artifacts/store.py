"""Store payloads by content hash: `<store>/<digest>/` holds the files, the published directory manifest and links.

The digest is that of manifest.json, which holds each file's hash. When an older manifest is put back (by `dvc
checkout`, which tracks only the manifest), it names its older payload, and `link` finds that payload again. Nothing
here reads content that has been hashed before (engine/artifacts/sums).
"""

import os
import shutil
from pathlib import Path

from engine.artifacts import sums
from engine.artifacts.files import publish
from engine.artifacts.manifest import MANIFEST, content_digest, parsed, read_manifest
from engine.artifacts.names import BadName, refuse_linked_folders, refuse_links
from engine.errors import UserError
from engine.remedy import make_again

FOLDER = ".store"
"""The store's name below data/<profile>."""
PAYLOADS = "[0-9a-f]*/"
"""A glob pattern for the payloads in the store."""


def publish_by_hash(source: Path, target: Path, store: Path) -> None:
    """Move the sealed directory `source` into `store` under its hash and publish its manifest and links at `target`.

    `source`, `target` and `store` are on one file system. If the store already has this payload, it is replaced by the
    new one with the same content, which repairs a damaged payload. If the process is killed at any moment, `target` is
    the old or the new version; a payload that no target names yet is used by the next attempt.
    """
    digest = content_digest(source)
    assert digest is not None, f"{source} is not sealed"
    payload = store / digest
    publish(source, payload)
    publish_links(payload, target)


def publish_links(payload: Path, target: Path) -> None:
    """Publish at `target`, in one step, the manifest of a stored payload and links to its files."""
    partial = target.with_name(f".{target.name}.links")
    lay_links(payload, partial, at=target)
    publish(partial, target)


def link(directory: Path, store: Path, *, stage: str, dataset: str) -> Path:
    """Make a published directory's links match its manifest; return the path of its payload in the store.

    Raises:
        UserError: the manifest is not of this dataset, or its payload is not in the store.

    """
    names = set(read_manifest(directory, stage=stage, dataset=dataset)["files"])
    digest = content_digest(directory)
    payload = store / str(digest)
    if not (payload / MANIFEST).is_file():
        raise UserError(
            f"{directory}: its payload {digest} is gone from {store}: copy it back there, or "
            f"{make_again(stage, directory, force=True)}."
        )
    _link_files(directory, payload, names, at=directory)
    for path in [path for path in directory.rglob("*") if path.is_symlink()]:
        if path.relative_to(directory).as_posix() not in names:
            path.unlink()
    return payload


def verify_payload(payload: Path, *, stage: str, dataset: str, files: dict[str, dict[str, int | str]]) -> None:
    """Check a payload against its manifest: always sizes, and the content of files that were not checked before.

    Raises:
        UserError: a file is missing, a link, of another size or of another content.

    """
    remedy = f"restore it, or {make_again(stage, payload, force=True)}"
    try:
        refuse_links(payload)
    except BadName as error:
        raise UserError(f"{error}, though {dataset} has one there: {remedy}.") from error
    for name, want in files.items():
        path = payload / name
        if not path.is_file():
            raise UserError(f"{path} is missing although the manifest of {dataset} lists it: {remedy}.")
        if path.stat().st_size != want["size"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes where {MANIFEST} says {want['size']}; {remedy}.")
    digests = sums.remember(payload)
    for name, want in files.items():
        if digests[name] != want["blake2b"]:
            raise UserError(f"{payload / name} does not match its hash in {MANIFEST}: {remedy}.")


def check(payload: Path, *, stage: str, dataset: str, read: bool) -> None:
    """Check that a payload is complete and has the digest that its name says; `read` rereads every byte.

    Raises:
        UserError: the payload is missing, has another digest, or is damaged.

    """
    if content_digest(payload) != payload.name:
        raise UserError(f"{payload} does not hold what its name says: {make_again(stage, payload, force=True)}.")
    if read:
        sums.forget(payload)
    files = read_manifest(payload, stage=stage, dataset=dataset)["files"]
    verify_payload(payload, stage=stage, dataset=dataset, files=files)


def lay_links(payload: Path, directory: Path, at: Path) -> None:
    """Write a payload's manifest and links into an emptied `directory`, as they must read once it is moved to `at`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copyfile(payload / MANIFEST, directory / MANIFEST)
    _link_files(directory, payload, set(_files(payload)), at=at)


def is_whole(payload: Path) -> bool:
    """Return whether a payload's content matches its own manifest, after reading every file."""
    sums.forget(payload)
    digests = sums.remember(payload)
    return all(digests.get(name) == want["blake2b"] for name, want in _files(payload).items())


def _files(payload: Path) -> dict[str, dict[str, int | str]]:
    return dict(parsed(payload / MANIFEST, f"remove the payload (`rm -r {payload}`)")["files"])


def _link_files(directory: Path, payload: Path, names: set[str], at: Path) -> None:
    """Create in `directory` relative links to the files of `payload`, as they must read once it is moved to `at`."""
    try:
        refuse_linked_folders(directory, names)
    except BadName as error:
        raise UserError(f"{error}, so its files would land elsewhere: remove the link.") from error
    for name in names:
        path = directory / name
        to = os.path.relpath(payload / name, (at / name).parent)
        if path.is_symlink() and os.readlink(path) == to:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.link")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(to)
        os.replace(fresh, path)
