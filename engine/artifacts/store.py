"""Payloads by content hash: `<store>/<digest>/` holds the files, the published directory its manifest and links.

The digest is that of manifest.json, which holds each file's hash. So an older manifest that is put back (by `dvc
checkout`, which knows the manifest alone) names its older payload, and `link` finds it again. Nothing here reads
content that has been hashed before (engine/artifacts/sums).
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.artifacts import sums
from engine.artifacts.files import publish
from engine.artifacts.manifest import MANIFEST, content_digest, parsed, read_manifest
from engine.artifacts.names import BadName, refuse_linked_folders, refuse_links
from engine.errors import UserError
from engine.remedy import make_again

FOLDER = ".store"
"""Its name below data/<profile>."""
PAYLOADS = "[0-9a-f]*/"
"""What of it is payloads, as a pattern."""


def publish_by_hash(source: Path, target: Path, store: Path) -> None:
    """Move the sealed directory `source` into `store` under its hash and put manifest and links at `target`, whole.

    `source`, `target` and `store` lie on one file system. A payload that is in the store already is exchanged for the
    new one of the same content, which heals it if it was damaged. Killed at any moment, `target` is as it was or as it
    shall be; a payload nobody names yet waits for the next try.
    """
    digest = content_digest(source)
    assert digest is not None, f"{source} is not sealed"
    held = store / digest
    publish(source, held)
    publish_links(held, target)


def publish_links(held: Path, target: Path) -> None:
    """Put the manifest of a payload in the store, and links to its files, at `target`, whole."""
    partial = target.with_name(f".{target.name}.links")
    lay_links(held, partial, at=target)
    publish(partial, target)


def link(directory: Path, store: Path, *, stage: str, dataset: str) -> Path:
    """Make the links of a published directory those of its manifest; return the payload's place in the store.

    Raises:
        UserError: the manifest is not of this dataset, or its payload is not in the store.

    """
    wanted = set(read_manifest(directory, stage=stage, dataset=dataset)["files"])
    digest = content_digest(directory)
    held = store / str(digest)
    if not (held / MANIFEST).is_file():
        raise UserError(
            f"{directory}: its payload {digest} is gone from {store}: copy it back there, or "
            f"{make_again(stage, directory, force=True)}."
        )
    _link_files(directory, held, wanted, at=directory)
    for path in [path for path in directory.rglob("*") if path.is_symlink()]:
        if path.relative_to(directory).as_posix() not in wanted:
            path.unlink()
    return held


def verify_payload(held: Path, *, stage: str, dataset: str, files: dict[str, dict[str, int | str]]) -> None:
    """Check a payload against its manifest: sizes always, content where it is not remembered to have been checked.

    Raises:
        UserError: a file is missing, a link, of another size or of another content.

    """
    remedy = f"restore it, or {make_again(stage, held, force=True)}"
    try:
        refuse_links(held)
    except BadName as error:
        raise UserError(f"{error}, though {dataset} has one there: {remedy}.") from error
    for name, want in files.items():
        path = held / name
        if not path.is_file():
            raise UserError(f"{path} is missing although the manifest of {dataset} lists it: {remedy}.")
        if path.stat().st_size != want["size"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes where {MANIFEST} says {want['size']}; {remedy}.")
    found = sums.remember(held)
    for name, want in files.items():
        if found[name] != want["blake2b"]:
            raise UserError(f"{held / name} does not match its hash in {MANIFEST}: {remedy}.")


def check(held: Path, *, stage: str, dataset: str, read: bool) -> None:
    """Check that a payload is the one of its name and whole; `read` looks at every byte, remembered or not.

    Raises:
        UserError: it is not there, another's, or damaged.

    """
    if content_digest(held) != held.name:
        raise UserError(f"{held} does not hold what its name says: {make_again(stage, held, force=True)}.")
    if read:
        sums.forget(held)
    wanted = read_manifest(held, stage=stage, dataset=dataset)["files"]
    verify_payload(held, stage=stage, dataset=dataset, files=wanted)


def lay_links(held: Path, directory: Path, at: Path) -> None:
    """Make `directory`, from scratch, the manifest and links of a payload as they must read when it stands at `at`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copyfile(held / MANIFEST, directory / MANIFEST)
    _link_files(directory, held, set(_files(held)), at=at)


def unnamed(store: Path, named: Iterable[str]) -> list[Path]:
    """Payloads in the store that none of the digests `named` asks for."""
    keep = set(named)
    return sorted(path for path in store.glob(PAYLOADS) if path.name not in keep and not path.is_symlink())


def is_whole(held: Path) -> bool:
    """Whether the content of a payload is what its own manifest says, every file read anew."""
    sums.forget(held)
    found = sums.remember(held)
    return all(found.get(name) == want["blake2b"] for name, want in _files(held).items())


def _files(held: Path) -> dict[str, dict[str, int | str]]:
    return dict(parsed(held / MANIFEST, f"remove the payload (`rm -r {held}`)")["files"])


def _link_files(directory: Path, held: Path, names: set[str], at: Path) -> None:
    """Relative links in `directory` to the files of `held`, as they must read when the directory stands at `at`."""
    try:
        refuse_linked_folders(directory, names)
    except BadName as error:
        raise UserError(f"{error}, so its files would land elsewhere: remove the link.") from error
    for name in names:
        path = directory / name
        to = os.path.relpath(held / name, (at / name).parent)
        if path.is_symlink() and os.readlink(path) == to:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.link")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(to)
        os.replace(fresh, path)
