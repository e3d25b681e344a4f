"""Kedro's datasets: a consumer never finds a half-written artifact."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from kedro.io import DatasetError

from engine.artifacts import kept, manifest
from engine.artifacts.files import heal
from pipelines.datasets import DirectoryDataset, MetricsDataset, TableDataset
from pipelines.errors import user_error


def rejects(path: Path) -> TableDataset:
    return TableDataset(
        filepath=str(path), stage="corpus", table="nodes.corpus.schema.REJECTED_DOCUMENTS", may_be_empty=True
    )


FRAME = pl.DataFrame([{"id": "1", "domain": "web", "source": "s", "title": "t", "reason": "short"}])


def test_table_round_trip(tmp_path: Path) -> None:
    dataset = rejects(tmp_path / "corpus/rejected_documents")
    assert not dataset.exists()
    dataset.save(FRAME)
    assert dataset.exists()
    assert dataset.load().collect().equals(FRAME)


def test_a_prepared_table_is_published_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With payloads by hash, the driver does not read the large files that a rank has prepared."""
    dataset = TableDataset(
        filepath=str(tmp_path / "corpus/rejected_documents"),
        stage="corpus",
        table="nodes.corpus.schema.REJECTED_DOCUMENTS",
        payload="by_hash",
    )
    prepared = dataset.prepare(FRAME, tmp_path / "work")
    with monkeypatch.context() as patch:
        for name in (
            "engine.artifacts.sums.digest_file",
            "engine.artifacts.manifest.digest_file",
            "polars.scan_parquet",
        ):
            patch.setattr(name, lambda *_: pytest.fail("the driver reads"))
        dataset.save(prepared)
    assert dataset.load().collect().equals(FRAME)
    assert not prepared.path.exists()


def test_refused_table_leaves_the_last_good_one(tmp_path: Path) -> None:
    dataset = rejects(tmp_path / "corpus/rejected_documents")
    dataset.save(FRAME)
    with pytest.raises(DatasetError) as caught:
        dataset.save(FRAME.drop("reason"))
    assert "column reason" in str(user_error(caught.value))
    assert dataset.load().collect().equals(FRAME)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["rejected_documents"]


def test_empty_table_is_refused_where_the_catalog_does_not_allow_it(tmp_path: Path) -> None:
    dataset = TableDataset(
        filepath=str(tmp_path / "corpus/rejected_documents"),
        stage="corpus",
        table="nodes.corpus.schema.REJECTED_DOCUMENTS",
    )
    with pytest.raises(DatasetError) as caught:
        dataset.save(FRAME[:0])
    assert "no rows" in str(user_error(caught.value))


def test_a_gate_that_refuses_sets_the_table_aside(tmp_path: Path) -> None:
    dataset = TableDataset(
        filepath=str(tmp_path / "corpus/documents"),
        stage="corpus",
        table="nodes.corpus.schema.DOCUMENTS",
        gate="documents",
    )
    row = {
        "id": "1",
        "domain": "web",
        "source": "s",
        "title": "t",
        "text": "\ufffd" * 50,
        "split": "train",
        "license": "x",
        "n_bytes": 150,
    }
    with pytest.raises(DatasetError) as caught:
        dataset.save(pl.DataFrame([row, row]))
    assert "documents" in str(user_error(caught.value))
    assert not (tmp_path / "corpus/documents").exists()
    assert (tmp_path / ".rejected/documents/part-00000.parquet").is_file()


def test_directory_moves_from_the_workspace(tmp_path: Path) -> None:
    dataset = DirectoryDataset(filepath=str(tmp_path / "sft/sft_history"), stage="sft")
    work = tmp_path / "work"
    work.mkdir()
    (work / "history.jsonl").write_text("{}\n")
    dataset.save(work)
    assert not work.exists()
    assert (dataset.load() / "history.jsonl").read_text() == "{}\n"
    (dataset.load() / "history.jsonl").write_text("")
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert "truncated" in str(user_error(caught.value))


def test_metrics_are_finite_and_flat(tmp_path: Path) -> None:
    dataset = MetricsDataset(filepath=str(tmp_path / "sft/metrics.json"), stage="sft")
    dataset.save({"loss": 1.5, "steps": 3})
    assert json.loads((tmp_path / "sft/metrics.json").read_text()) == dataset.load() == {"loss": 1.5, "steps": 3}
    for bad in (float("nan"), float("inf"), {"nested": 1}):
        with pytest.raises(DatasetError) as caught:
            dataset.save({"loss": bad})
        assert "metric loss" in str(user_error(caught.value))
    assert dataset.load()["loss"] == 1.5
    for literal in ("NaN", "-Infinity", "1e999"):
        (tmp_path / "sft/metrics.json").write_text(f'{{"loss": {literal}}}')
        with pytest.raises(DatasetError) as caught:
            dataset.load()
        assert "metric loss" in str(user_error(caught.value))
        assert "make repro STAGE=sft" in str(user_error(caught.value))


STEPS = frozenset({"open", "os.link", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree"})
"""What Python reports to an audit hook whenever a file or folder is opened, made, moved or removed."""


def is_killed_at(step: int, act: Callable[[], object]) -> bool:
    """Call `act` in a process that is killed before its step of this number; return False if it has fewer steps."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, _: tuple[object, ...]) -> None:
            if event not in STEPS:
                return
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def made(root: Path, version: str) -> Path:
    (root / version).mkdir(parents=True)
    (root / version / "history.jsonl").write_text(version)
    return root / version


def test_killed_at_any_step_a_publish_leaves_old_or_new_and_loses_no_version(tmp_path: Path) -> None:
    """The version that is there and not kept yet is kept before another takes its place."""
    contents = []
    for step in range(1000):
        root = tmp_path / str(step)
        target, store = root / "sft/sft_history", root / ".store"
        dataset = DirectoryDataset(filepath=str(target), stage="sft")
        dataset.save(made(root, "older"))
        older = store / str(manifest.content_digest(target))
        killed = is_killed_at(step, partial(dataset.save, made(root, "newer")))
        heal(target)
        contents.append((dataset.load() / "history.jsonl").read_text())
        for path in {*store.glob("[0-9a-f]*"), *([older] if contents[-1] == "newer" else [])}:
            kept.check(path, stage="sft", dataset="sft_history", since=None)
        if not killed:
            break
    assert contents == sorted(contents, reverse=True), "the older one up to some step, then the newer one"
    assert contents.count("older") > 20
    assert contents.count("newer") > 1
