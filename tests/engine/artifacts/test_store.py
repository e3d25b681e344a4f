"""Payloads by hash: moved once, found by their manifest, refused when gone or damaged."""

import os
import shutil
from pathlib import Path

import pytest

from engine.artifacts import sums
from engine.artifacts.manifest import MANIFEST, content_digest, read_manifest, seal
from engine.artifacts.store import is_whole, link, publish_by_hash, verify_payload
from engine.errors import UserError

WHO = {"stage": "sft", "dataset": "weights"}


def make(root: Path, **files: str) -> Path:
    """A sealed directory in a workspace."""
    source = root / ".work" / "made"
    for name, text in files.items():
        path = source / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    seal(source, **WHO, counts={}, digests=sums.remember(source))
    return source


def verify(target: Path, store: Path) -> None:
    held = link(target, store, **WHO)
    verify_payload(held, **WHO, files=read_manifest(target, **WHO)["files"])


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Where the dataset is published, and the store."""
    return tmp_path / "sft" / "weights", tmp_path / ".store"


def test_a_payload_is_moved_and_linked(tmp_path: Path, places: tuple[Path, Path]) -> None:
    target, store = places
    source = make(tmp_path, a="one", deep__b="two")
    inode = (source / "a").stat().st_ino
    publish_by_hash(source, target, store)
    assert not source.exists()
    assert (target / "a").stat().st_ino == inode, "moved, not copied"
    assert (target / "deep/b").read_text() == "two"
    assert not os.path.isabs(os.readlink(target / "deep/b"))
    assert not (target / MANIFEST).is_symlink(), "DVC is given a file, no link to follow"
    assert [path.name for path in store.iterdir()] == [content_digest(target)]
    verify(target, store)


def test_an_older_manifest_finds_its_payload(tmp_path: Path, places: tuple[Path, Path]) -> None:
    target, store = places
    publish_by_hash(make(tmp_path, a="old", only_old="x"), target, store)
    older = (target / MANIFEST).read_bytes()
    publish_by_hash(make(tmp_path, a="new"), target, store)
    assert (target / "a").read_text() == "new"
    (target / MANIFEST).write_bytes(older)
    verify(target, store)
    assert ((target / "a").read_text(), (target / "only_old").read_text()) == ("old", "x")


def test_links_of_another_manifest_go(tmp_path: Path, places: tuple[Path, Path]) -> None:
    target, store = places
    publish_by_hash(make(tmp_path, a="old"), target, store)
    older = (target / MANIFEST).read_bytes()
    publish_by_hash(make(tmp_path, a="new", more="y"), target, store)
    (target / MANIFEST).write_bytes(older)
    verify(target, store)
    assert sorted(path.name for path in target.iterdir()) == ["a", MANIFEST]


def test_a_payload_that_is_gone_is_refused(tmp_path: Path, places: tuple[Path, Path]) -> None:
    target, store = places
    publish_by_hash(make(tmp_path, a="one"), target, store)
    shutil.rmtree(store / str(content_digest(target)))
    with pytest.raises(UserError, match=r"payload \w+ is gone from"):
        verify(target, store)


@pytest.mark.parametrize(("text", "sentence"), [("on", "has 2 bytes where"), ("0ne", "does not match its hash")])
def test_a_damaged_payload_is_refused_and_made_again(
    tmp_path: Path, places: tuple[Path, Path], text: str, sentence: str
) -> None:
    target, store = places
    publish_by_hash(make(tmp_path, a="one"), target, store)
    (target / "a").write_text(text)
    with pytest.raises(UserError, match=sentence):
        verify(target, store)
    publish_by_hash(make(tmp_path, a="one"), target, store)
    verify(target, store)


def test_content_is_read_once(tmp_path: Path, places: tuple[Path, Path]) -> None:
    """What was hashed counts until size or time change, or until somebody asks for all of it."""
    target, store = places
    publish_by_hash(make(tmp_path, a="one"), target, store)
    held = store / str(content_digest(target))
    state = (held / "a").stat()
    (held / "a").write_text("0ne")
    os.utime(held / "a", ns=(state.st_atime_ns, state.st_mtime_ns))
    verify(target, store)  # same size, same time: remembered
    assert not is_whole(held), "on demand every file is read"
    with pytest.raises(UserError, match="does not match its hash"):
        verify(target, store)
