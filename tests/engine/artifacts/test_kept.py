"""Versions kept in the store: the published files themselves under a second name, checked whenever they are used."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.artifacts import kept
from engine.artifacts.files import files_below, publish
from engine.artifacts.manifest import MANIFEST, content_digest, seal
from engine.errors import UserError, warn

WHO = {"stage": "sft", "dataset": "weights"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / ".store"


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Yield a folder on another file system than pytest's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def publish_version(tmp_path: Path, **files: str) -> Path:
    """Publish a version of one dataset and return where it is."""
    made, target = tmp_path / "made", tmp_path / "sft" / "weights"
    for name, text in files.items():
        path = made / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    seal(made, **WHO, counts={})
    publish(made, target)
    return target


def on_disk(*folders: Path) -> int:
    """Return the bytes of all files but manifests, each inode once."""
    states = [path.stat() for folder in folders for path in files_below(folder) if path.name != MANIFEST]
    return sum({state.st_ino: state.st_size for state in states}.values())


def test_a_kept_version_is_the_published_files_and_read_only(tmp_path: Path, store: Path) -> None:
    target = publish_version(tmp_path, a="one", deep__b="two!")
    kept.keep(target, store, **WHO)
    version = store / str(content_digest(target))
    for name in ("a", "deep/b"):
        assert (version / name).samefile(target / name)
        assert (target / name).stat().st_nlink == 2
        assert stat.S_IMODE((target / name).stat().st_mode) == 0o444
    assert on_disk(target, store) == on_disk(target) == 7
    assert not (version / MANIFEST).samefile(target / MANIFEST), "what identifies it survives an edit in place"
    kept.check(version, **WHO, since=None)
    assert [path.name for path in store.iterdir()] == [version.name]


def test_an_older_version_outlives_the_next_and_is_laid_out_as_links(tmp_path: Path, store: Path) -> None:
    target = publish_version(tmp_path, a="one")
    kept.keep(target, store, **WHO)
    first, inode = store / str(content_digest(target)), (target / "a").stat().st_ino
    kept.keep(publish_version(tmp_path, a="two"), store, **WHO)
    assert (first / "a").read_text() == "one"
    kept.lay_out(first, tmp_path / "back")
    assert (tmp_path / "back" / "a").stat().st_ino == inode
    assert content_digest(tmp_path / "back") == first.name


def test_the_links_follow_a_copy_that_took_the_files_place(tmp_path: Path, store: Path) -> None:
    """DVC replaces linked outputs by copies when it commits them: no file stays on the disk twice."""
    target = publish_version(tmp_path, a="one")
    kept.keep(target, store, **WHO)
    os.utime(target / "a", (1, 1))
    shutil.copyfile(target / "a", target / "copy")
    os.replace(target / "copy", target / "a")
    assert on_disk(target, store) == 6
    kept.keep(target, store, **WHO)
    assert on_disk(target, store) == 3
    assert (target / "a").stat().st_mtime == 1, "it was not touched since the run"


HARMS: dict[str, Callable[[Path], object]] = {
    "changed": lambda path: path.write_text("0ne"),
    "cut": lambda path: path.write_text("o"),
    "gone": Path.unlink,
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
    "more": lambda path: path.with_name("more").write_text("?"),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_damage_in_the_store_is_noticed(tmp_path: Path, store: Path, harm: Callable[[Path], object]) -> None:
    target = publish_version(tmp_path, a="one")
    kept.keep(target, store, **WHO)
    version = store / str(content_digest(target))
    (version / "a").chmod(0o644)
    harm(version / "a")
    with pytest.raises(UserError, match=r"\.store"):
        kept.check(version, **WHO, since=None)


def test_a_version_under_another_name_is_none(tmp_path: Path, store: Path) -> None:
    target = publish_version(tmp_path, a="one")
    kept.keep(target, store, **WHO)
    (store / str(content_digest(target))).rename(store / "0a")
    with pytest.raises(UserError, match="does not hold what its name says"):
        kept.check(store / "0a", **WHO, since=None)


def test_what_is_damaged_is_not_kept_and_what_is_kept_stays(tmp_path: Path, store: Path) -> None:
    target = publish_version(tmp_path, a="one")
    kept.keep(target, store, **WHO)
    version = store / str(content_digest(target))
    (target / "a").unlink()
    (target / "a").write_text("0ne")
    with pytest.raises(UserError, match=rf"{target}/a does not match its hash"):
        kept.keep(target, store, **WHO)
    (target / "a").unlink()
    with pytest.raises(UserError, match=rf"{target}/a is missing"):
        kept.keep(target, store, **WHO)
    assert (version / "a").read_text() == "one"
    assert [path.name for path in store.iterdir()] == [version.name], "nothing half kept is left"


def test_on_another_file_system_files_are_copied_and_that_is_said(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert elsewhere.stat().st_dev != tmp_path.stat().st_dev
    target = publish_version(tmp_path, a="one")
    warn.cache_clear()
    kept.keep(target, elsewhere, **WHO)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {elsewhere}: no hard links to {target} (Invalid cross-device link)")
    version = elsewhere / str(content_digest(target))
    kept.check(version, **WHO, since=None)
    inode = (version / "a").stat().st_ino
    kept.keep(target, elsewhere, **WHO)
    assert (version / "a").stat().st_ino == inode, "a copy is kept, and not copied again"
    kept.lay_out(version, tmp_path / "back")
    assert (tmp_path / "back" / "a").read_text() == "one"
