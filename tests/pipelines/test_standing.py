"""A stage's standing under a key, which the plan and the stage itself use: done, recalled, or to be made."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import files_below
from engine.artifacts.manifest import MANIFEST
from pipelines import graph, restore, standing
from pipelines.cli import is_forced
from pipelines.hooks import FORCED, FRESH
from pipelines.recall import DVC, made_before, recall
from pipelines.standing import ASIDE
from tests.runs import Runs

STAGE, DATASET = "pretrain", "base_checkpoint"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return runs in a scratch repository without DVC, in a stage that DVC has started."""
    monkeypatch.setenv(DVC, STAGE)
    monkeypatch.delenv(FORCED, raising=False)
    monkeypatch.delenv(FRESH, raising=False)
    return Runs(tmp_path, monkeypatch)


def content(name: str) -> Path:
    return graph.dataset_path("smoke", name) / "content.txt"


def kept_file(record: dict[str, Any], dataset: str) -> Path:
    return graph.payload_store("smoke") / record["outputs"][dataset] / "content.txt"


def written_anew(path: Path) -> None:
    """Give a file an inode of its own, as editors and DVC do; a kept version has the one before."""
    copy = shutil.copy2(path, path.with_name("copy"))
    os.replace(copy, path)


def keep_time(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file as a bad disc does, without changing its time."""
    state = path.stat()
    change(path)
    if path.exists():
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def aged(record: dict[str, Any]) -> dict[str, Any]:
    """Make the files of a record's outputs older than the record, as after a real run."""
    for name in record["outputs"]:
        path = graph.dataset_path("smoke", name)
        for file in files_below(path) if path.is_dir() else [path]:
            os.utime(file, (1_000_000_000, 1_000_000_000))
    return record


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "hash"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"?"), "longer"),
    "deleted": (lambda path: path.unlink(), "missing"),
    "a stranger": (lambda path: path.with_name("more.txt").write_text("?"), "more.txt"),
}


@pytest.mark.parametrize(("change", "word"), CHANGES.values(), ids=CHANGES)
def test_what_is_damaged_is_seen_and_comes_back_from_the_store(
    runs: Runs, change: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    record = aged(runs.add(STAGE, 1))
    key = record["key"]
    assert standing.standing("smoke", key, [record], read=False).is_done
    before = content(DATASET).read_bytes()
    change(content(DATASET))
    lost = standing.standing("smoke", key, [record], read=False)
    assert (lost.is_done, lost.comes_back, lost.lost) == (False, False, DATASET)
    assert f"{DATASET} is damaged" in str(lost.harm)
    assert word in str(lost.harm)
    content(DATASET).write_bytes(before)
    content(DATASET).with_name("more.txt").unlink(missing_ok=True)
    runs.keep(DATASET)
    written_anew(content(DATASET))
    content(DATASET).chmod(0o644)
    change(content(DATASET))
    damaged_standing = standing.standing("smoke", key, [record], read=False)
    assert damaged_standing.comes_back
    workspace = tmp_path / "workspace"
    known = made_before("smoke", STAGE, key, workspace)
    inode = kept_file(record, DATASET).stat().st_ino
    assert recall("smoke", known, workspace, lambda line: None) == known.record
    assert content(DATASET).read_bytes() == before
    state = content(DATASET).stat()
    assert (state.st_ino, state.st_nlink) == (inode, 1), "the kept file itself, which DVC will not copy"
    assert made_before("smoke", STAGE, key, tmp_path / "other").is_done
    restore.settle("smoke", STAGE)
    assert kept_file(record, DATASET).samefile(content(DATASET))


def test_a_change_in_place_has_changed_the_kept_file_too(runs: Runs, tmp_path: Path) -> None:
    """DVC's cache would have a copy of its own; without it, the stage runs again, and nothing damaged is published."""
    record = aged(runs.add(STAGE, 1))
    runs.keep(DATASET)
    assert content(DATASET).stat().st_mode & 0o777 == 0o444, "which an ordinary edit does not get to"
    content(DATASET).chmod(0o644)
    flip(content(DATASET))
    for read in (False, True):
        assert standing.standing("smoke", record["key"], [record], read=read).lost == DATASET
    lines: list[str] = []
    made = made_before("smoke", STAGE, record["key"], tmp_path / "w")
    assert recall("smoke", made, tmp_path / "w", lines.append) is None
    assert "its base_checkpoint is not kept any more: it runs again" in lines[0]


def test_a_version_comes_back_after_its_folder_was_deleted(runs: Runs, tmp_path: Path) -> None:
    record = aged(runs.add(STAGE, 1))
    runs.keep(DATASET)
    shutil.rmtree(graph.dataset_path("smoke", DATASET))
    assert standing.standing("smoke", record["key"], [record], read=False).comes_back
    made = made_before("smoke", STAGE, record["key"], tmp_path / "w")
    assert recall("smoke", made, tmp_path / "w", lambda line: None) == made.record
    assert standing.harm_of("smoke", record, read=True) is None


def test_the_version_that_is_replaced_is_kept(runs: Runs, tmp_path: Path) -> None:
    record = aged(runs.add(STAGE, 1))
    runs.keep(DATASET, "pretrain_history")
    other = aged(runs.add(STAGE, 2, width=3))
    assert not kept_file(other, DATASET).exists()
    for back in (record, other):
        made = made_before("smoke", STAGE, back["key"], tmp_path / "w")
        assert recall("smoke", made, tmp_path / "w", lambda line: None) == made.record
        assert standing.harm_of("smoke", back, read=True) is None


def test_a_damaged_manifest_comes_back_from_the_copy_in_the_store(runs: Runs, tmp_path: Path) -> None:
    record = aged(runs.add(STAGE, 1))
    runs.keep(DATASET)
    flip(content(DATASET).with_name(MANIFEST))
    assert standing.standing("smoke", record["key"], [record], read=False).comes_back
    made = made_before("smoke", STAGE, record["key"], tmp_path / "w")
    assert recall("smoke", made, tmp_path / "w", lambda line: None) == made.record


def test_a_change_without_a_trace_is_found_by_reading_and_then_leaves_one(runs: Runs) -> None:
    record = aged(runs.add(STAGE, 1))
    keep_time(content(DATASET), flip)
    assert standing.standing("smoke", record["key"], [record], read=False).is_done, "sizes and times are as they were"
    assert "hash" in str(standing.standing("smoke", record["key"], [record], read=True).harm)
    assert not standing.standing("smoke", record["key"], [record], read=False).is_done, "DVC goes by times, too"


def test_an_output_that_is_whole_in_its_place_need_not_be_kept(runs: Runs) -> None:
    record = runs.add(STAGE, 1)
    runs.keep(DATASET)
    content(DATASET).unlink()
    assert standing.standing("smoke", record["key"], [record], read=True).comes_back
    flip(content("pretrain_history"))
    assert standing.standing("smoke", record["key"], [record], read=True).lost == "pretrain_history"


def test_a_store_that_lost_a_file_brings_nothing_back(runs: Runs, tmp_path: Path) -> None:
    record = aged(runs.add(STAGE, 1))
    runs.keep(DATASET)
    content(DATASET).unlink()
    kept = kept_file(record, DATASET)
    kept.chmod(0o644)
    keep_time(kept, flip)  # of the same size: noticed by who reads it
    assert standing.standing("smoke", record["key"], [record], read=False).comes_back
    before = made_before("smoke", STAGE, record["key"], tmp_path / "w")
    assert before.lost == DATASET
    lines: list[str] = []
    assert recall("smoke", before, tmp_path / "w", lines.append) is None
    assert "its base_checkpoint is not kept any more: it runs again" in lines[0]
    kept.unlink()
    assert standing.standing("smoke", record["key"], [record], read=False).lost == DATASET


def test_where_one_output_cannot_be_put_back_none_is(runs: Runs, tmp_path: Path) -> None:
    record = runs.add(STAGE, 1)
    runs.keep(DATASET, "pretrain_history")
    other = runs.add(STAGE, 2, width=3)
    blocked = graph.dataset_path("smoke", "pretrain_history").with_name("pretrain_history.old")
    blocked.write_text("a file where publishing puts the older one aside")
    workspace = tmp_path / "w"
    before = made_before("smoke", STAGE, record["key"], workspace)
    assert before.comes_back
    with pytest.raises(OSError, match="pretrain_history.old"):
        recall("smoke", before, workspace, lambda line: None)
    assert standing.harm_of("smoke", other, read=True) is None, "what was there is back, whole"
    blocked.unlink()
    again = made_before("smoke", STAGE, record["key"], workspace)
    assert recall("smoke", again, workspace, lambda line: None) == again.record
    assert standing.harm_of("smoke", record, read=True) is None


def test_who_asks_for_a_run_is_not_answered_from_the_past(runs: Runs, tmp_path: Path, monkeypatch) -> None:
    record = runs.add(STAGE, 1)
    workspace = tmp_path / "w"
    assert made_before("smoke", STAGE, record["key"], workspace).is_done
    for variable in (FORCED, FRESH):
        monkeypatch.setenv(variable, "1")
        assert made_before("smoke", STAGE, record["key"], workspace).record is None
        monkeypatch.delenv(variable)
    workspace.mkdir()
    assert made_before("smoke", STAGE, record["key"], workspace).record is None, "work under way is gone on with"
    (workspace / ASIDE).mkdir()
    assert made_before("smoke", STAGE, record["key"], workspace).is_done, "but for a coming back that was cut off"
    workspace = tmp_path / "other"
    monkeypatch.delenv(DVC)
    assert made_before("smoke", STAGE, record["key"], workspace).record is None


@pytest.mark.parametrize(
    ("words", "forced"),
    [
        (["repro", "-f", "-s", "dvc.yaml:sft"], True),
        (["repro", "-sf", "dvc.yaml:sft"], True),
        (["--wait-for-lock", "repro", "--force"], True),
        (["repro", "--force-downstream"], True),
        (["exp", "run", "-fn", "name"], True),
        (["repro", "-s", "dvc.yaml:sft", "-v"], False),
        (["exp", "run", "-nfirst", "-S", "sft.yml:sft.f=1"], False),
        (["--wait-for-lock", "repro", "conf/f/dvc.yaml"], False),
    ],
)
def test_dvc_is_asked_whether_it_was_forced(words: list[str], forced: bool) -> None:
    script = "print(flush=True); input()"
    dvc = subprocess.Popen(
        [sys.executable, "-S", "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert dvc.stdout is not None
    dvc.stdout.readline()  # it runs, so its command line is there
    try:
        assert is_forced(dvc.pid) is forced
    finally:
        dvc.communicate("\n")


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert not is_forced(ended.pid)
