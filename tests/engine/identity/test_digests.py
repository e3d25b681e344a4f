"""Digests of files: remembered while nothing touched the file, and never for longer."""

import os
import shutil
from pathlib import Path

import pytest

from engine.artifacts.files import digest_bytes
from engine.errors import UserError
from engine.identity import digests
from engine.identity.digests import Digests

LONG_AGO = 1_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "data" / "store.json"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file old enough to be remembered: no clock is waited for."""
    monkeypatch.setattr(digests, "YOUNG_NS", -1)
    path = tmp_path / "notes.jsonl"
    path.write_text("one text")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was read."""
    read: list[Path] = []
    real = digests.digest_file
    monkeypatch.setattr(digests, "digest_file", lambda path: read.append(path) or real(path))
    return read


def digest_in(store: Path, path: Path) -> str:
    """The digest as a process of its own gets it."""
    known = Digests(store)
    digest = known.of(path)
    known.save()
    return digest


def test_an_untouched_file_is_read_once(store: Path, file: Path, reads: list[Path]) -> None:
    assert digest_in(store, file) == digest_in(store, file) == digest_bytes(b"one text")
    assert reads == [file]


def same_size(path: Path) -> None:
    path.write_text("two text")


def same_size_and_time(path: Path) -> None:
    stat = path.stat()
    path.write_text("two text")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def another_file(path: Path) -> None:
    stat = path.stat()
    other = path.with_name("other")
    other.write_text("two text")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("edit", [same_size, same_size_and_time, another_file])
def test_an_edit_of_the_same_size_is_noticed(store: Path, file: Path, edit) -> None:
    before = digest_in(store, file)
    edit(file)
    assert digest_in(store, file) == digest_bytes(b"two text") != before


def test_a_touch_reads_again_and_changes_nothing(store: Path, file: Path, reads: list[Path]) -> None:
    before = digest_in(store, file)
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert digest_in(store, file) == before
    assert len(reads) == 2


def test_what_was_written_a_moment_ago_is_not_remembered(
    store: Path, file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next edit may leave the same times: the clock of a file system ticks coarsely."""
    monkeypatch.setattr(digests, "YOUNG_NS", 10**18)
    digest_in(store, file)
    digest_in(store, file)
    assert len(reads) == 2
    assert not store.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": [1]}', b"\xff"])
def test_a_broken_store_is_made_again(store: Path, file: Path, content: bytes) -> None:
    store.parent.mkdir()
    store.write_bytes(content)
    assert digest_in(store, file) == digest_bytes(b"one text")
    assert str(file) in store.read_text()


def test_a_store_that_cannot_be_written_is_a_warning(
    store: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.parent.write_text("no folder")
    assert digest_in(store, file) == digest_bytes(b"one text")
    assert "store.json cannot be written (" in capsys.readouterr().err


def test_two_who_save_at_once_keep_both_answers(store: Path, file: Path, reads: list[Path]) -> None:
    other = file.with_name("other.jsonl")
    shutil.copy(file, other)
    first, second = Digests(store), Digests(store)
    first.of(file)
    second.of(other)
    first.save()
    second.save()
    last = Digests(store)
    assert last.of(file) == last.of(other)
    assert reads == [file, other]


def test_a_file_that_is_being_written_is_refused(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = digests.digest_file

    def digest_and_grow(path: Path) -> str:
        digest = real(path)
        path.write_text("longer than it was")
        return digest

    monkeypatch.setattr(digests, "digest_file", digest_and_grow)
    with pytest.raises(UserError, match=r"notes.jsonl is being written: wait"):
        Digests(store).of(file)


def test_a_file_that_is_gone_is_one_sentence(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone cannot be read \(No such file or directory\)"):
        Digests(store).of(tmp_path / "gone")
