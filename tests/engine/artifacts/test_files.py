"""Publishing: whole or not at all, whatever kills it."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.artifacts import files


def directory(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "a.txt").write_text(text)
    (path / "b.txt").write_text(text)
    return path


def test_publish_replaces_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    files.publish(directory(tmp_path / "one", "1"), target)
    files.publish(directory(tmp_path / "two", "2"), target)
    assert {path.read_text() for path in files.files_below(target)} == {"2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_publish_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "exchange", lambda a, b: False)
    test_publish_replaces_whole(tmp_path)


def test_heal_brings_back_what_stood_aside(tmp_path: Path) -> None:
    target = tmp_path / "out"
    directory(tmp_path / "out.old", "1")
    files.heal(target)
    assert (target / "a.txt").read_text() == "1"
    directory(tmp_path / "out.old", "0")
    files.heal(target)  # both there: the publish had succeeded
    assert (target / "a.txt").read_text() == "1"
    assert not (tmp_path / "out.old").exists()


def test_killed_while_publishing_leaves_old_or_new(tmp_path: Path) -> None:
    """SIGKILL at many moments of a loop of publishes: the target always reads as one version throughout."""
    target = tmp_path / "out"
    files.publish(directory(tmp_path / "first", "0"), target)
    for moment in range(12):
        child = os.fork()
        if child == 0:
            for version in range(10_000):
                source = tmp_path / f"next{moment}"
                shutil.rmtree(source, ignore_errors=True)
                files.publish(directory(source, f"{moment}.{version}"), target)
            os._exit(0)
        os.waitpid(child, os.WNOHANG)

        time.sleep(0.003 * (moment + 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files.heal(target)
        assert len({path.read_text() for path in files.files_below(target)}) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_does_not_depend_on_order(value: object) -> None:
    def backwards(item: object) -> object:
        if isinstance(item, dict):
            return {key: backwards(item[key]) for key in reversed(item)}
        return [backwards(one) for one in item] if isinstance(item, list) else item

    assert files.canonical_json(value) == files.canonical_json(backwards(value))


def test_write_atomic_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    files.write_atomic(path, b"1")
    files.write_atomic(path, b"2")
    assert path.read_bytes() == b"2"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]
