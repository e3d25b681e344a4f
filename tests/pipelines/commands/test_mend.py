"""Files damaged on the disc: each is passed over or refused by name, and `make mend` takes it out of the way."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.artifacts.files import object_if_sound, read_object, read_rows
from engine.errors import UserError
from engine.identity.records import read_records
from engine.launch import exchange
from engine.launch.heartbeat import HEARTBEAT
from engine.launch.slurm.rundir import RunDirectory
from engine.training.position import position
from engine.training.sealed import seal
from pipelines.commands import clean, mend
from pipelines.gates.docs import write_docs
from pipelines.track.importer import read_all_records
from pipelines.track.live import in_progress
from tests.runs import Runs

DAMAGE = {
    "empty": b"",
    "torn": b'{"outcome": "succ',
    "of zeros": bytes(512),
    "no UTF-8": b'{"outcome": "\xff"}',
    "a list": b"[1, 2]",
    "nested": b"[" * 100_000,
    "a number of 5,000 digits": b'{"seconds": ' + b"9" * 5000 + b"}",
}
RECORD_DAMAGE = {**DAMAGE, "no record": b"{}", "of other types": b'{"outcome": 3, "parts": [], "outputs": null}'}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_whoever_reads_an_object_back_names_the_file_and_a_command(tmp_path: Path, content: bytes, capsys) -> None:
    path = tmp_path / "data/smoke/.runs/x.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        read_object(path)
    assert f"`rm {path}`" in str(caught.value)
    assert object_if_sound(path) is None
    assert str(path) in capsys.readouterr().err
    assert object_if_sound(path.with_name("absent.json")) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", RECORD_DAMAGE.values(), ids=RECORD_DAMAGE)
def test_a_damaged_record_is_passed_over_by_name_and_moved_aside(runs: Runs, content: bytes, capsys) -> None:
    good = runs.add("tooluse", 1)
    bad = good["path"].with_name("0-damaged.json")
    bad.write_bytes(content)
    assert [record["path"] for record in read_records(bad.parent)] == [good["path"]]
    assert [record["path"] for record in read_all_records("smoke")] == [good["path"]]
    output = capsys.readouterr().err
    assert output.count("warning: ") == output.count(str(bad)) == 1, "once, however many ask"
    assert "`make mend PROFILE=smoke`" in output

    assert mend.move_aside("smoke") == [runs.root / "data/smoke/.damaged/.runs/tooluse/0-damaged.json"]
    assert not bad.exists()
    assert good["path"].exists()
    assert mend.move_aside("smoke") == []


def test_of_work_in_progress_what_cannot_be_read_is_named_and_moved_aside(runs: Runs, capsys) -> None:
    workspace = runs.root / "data/smoke/.work/sft/0123456789abcdef"
    reads: dict[str, Callable[[], object]] = {
        "begun.json": lambda: in_progress("smoke"),
        ".exchange/train.outputs.json": lambda: exchange.read_outputs(workspace, "train"),
        ".exchange/train.parameters.json": lambda: exchange.read_parameters(workspace, "train"),
        "jobs/train/job.json": lambda: RunDirectory(workspace / "jobs/train").submitted(),
        "jobs/train/exit.json": lambda: RunDirectory(workspace / "jobs/train").exit("1"),
    }
    for name, read in reads.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'{"id": ')
        try:
            read()
            output = capsys.readouterr().err
        except UserError as error:
            output = str(error)
        assert str(path) in output
        assert "`make mend PROFILE=smoke`" in output
    (workspace / "checkpoint").mkdir()
    (workspace / "checkpoint" / "foreign.json").write_text("half writ")
    assert len(mend.move_aside("smoke")) == len(reads)
    assert in_progress("smoke") == []
    assert RunDirectory(workspace / "jobs/train").submitted() is None


def test_a_damaged_gate_report_does_not_stop_the_pages(runs: Runs, capsys) -> None:
    report = runs.root / "data/smoke/.runs/corpus/gates/documents.json"
    report.parent.mkdir(parents=True)
    report.write_bytes(b"")
    assert write_docs(runs.root / "data/smoke/.runs").is_file()
    assert str(report) in capsys.readouterr().err
    assert mend.move_aside("smoke")


def test_a_damaged_heartbeat_shows_no_steps_and_stops_no_plan(tmp_path: Path, capsys) -> None:
    checkpoint = tmp_path / "checkpoints/00000004"
    checkpoint.mkdir(parents=True)
    seal(checkpoint, {"step": 4}, {})
    (tmp_path / HEARTBEAT).write_text('{"steps": 8}')
    assert str(position(tmp_path)) == "4 of 8"
    (tmp_path / HEARTBEAT).write_bytes(b"")
    assert str(position(tmp_path)) == "4"
    assert str(tmp_path / HEARTBEAT) in capsys.readouterr().err


def test_rows_without_the_last_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"history.jsonl, line 2, is damaged"):
        read_rows(path)


def test_make_clean_counts_no_work_as_finished_by_a_damaged_record(tmp_path: Path, monkeypatch) -> None:
    workspace = tmp_path / "data/smoke/.work/sft/0123456789abcdef"
    workspace.mkdir(parents=True)
    record = tmp_path / "data/smoke/.runs/sft/0123456789abcdef-1.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"")
    (workspace / "begun.json").write_text('{"started": "2026-01-01"}')
    monkeypatch.setattr(clean, "ROOT", tmp_path)
    assert clean.finished_work() == []
    record.write_bytes(b'{"outcome": "success", "finished": "2026-01-02"}')
    assert clean.finished_work() == [workspace]
