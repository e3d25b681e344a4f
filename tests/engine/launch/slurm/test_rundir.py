"""The run directory: what is in it after each step, and what a run record says of it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch.slurm import rundir
from engine.launch.slurm.rundir import RunDirectory, expand, skew


def test_a_submission_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "jobs" / "train")
    assert directory.prepare() == ""
    assert directory.submitted() is None
    first = directory.begin((), 1)
    assert (directory.path / "key").read_text() == first.key
    assert first.id == ""
    directory.update(id="7", ended="was preempted", spent=1, mark="x")
    second = directory.begin((1, 2), 3)
    assert second.key != first.key
    assert (second.previous, second.spent, second.mark, second.ended) == (("7",), 1, "x", None)
    assert directory.submitted() == second


def test_an_exit_json_of_another_job_counts_for_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.exit("7") is None
    record = {"job": "7", "attempt": 1, "rc": 0, "drain": False, "done": True, "failed": False, "ended": 5}
    (tmp_path / "exit.json").write_text(json.dumps(record))
    assert directory.exit("8") is None
    ended = directory.exit("7")
    assert ended is not None
    assert (ended.attempt, ended.rc, ended.done) == (1, 0, True)
    (tmp_path / "element-2").mkdir()
    (tmp_path / "element-2" / "exit.json").write_text(json.dumps({**record, "job": "7_2"}))
    assert directory.exit("7", 2) is not None
    assert directory.exit("7", 1) is None


def test_the_run_record_counts_attempts_and_their_time(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.record() is None
    directory.begin((), 1)
    directory.update(id="7", submitted=100.0)
    lines = [
        {"job": "7", "attempt": 0, "begun": 103, "nodes": "h800-[0-1]"},
        {"job": "7", "attempt": 0, "rc": 85, "ended": 110},
        {"job": "7", "attempt": 1, "begun": 120, "nodes": "h800-[0,2]"},  # was killed, and left no end
        {"job": "7", "attempt": 2, "begun": 140, "nodes": "h800-[0-1]"},
        {"job": "7", "attempt": 2, "rc": 0, "ended": 150},
    ]
    (tmp_path / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert directory.record() == {
        "id": "7",
        "nodes": ["h800-0", "h800-1", "h800-2"],
        "attempts": 3,
        "queue_seconds": 3.0,
        "run_seconds": 17.0,
        "log": "slurm-7.out",
    }


def test_one_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file in the way")
    with pytest.raises(UserError, match=r"jobs/train cannot be written \(Not a directory\): it must lie on a file sys"):
        RunDirectory(tmp_path / "jobs" / "train").prepare()
    assert RunDirectory(tmp_path / "jobs" / "train").record() is None


@pytest.mark.parametrize(("seconds", "words"), [(0.3, ""), (-4.0, ""), (61.0, "61 s ahead of"), (-90.2, "90 s behind")])
def test_clocks_that_disagree_are_reported(tmp_path: Path, seconds: float, words: str) -> None:
    warning = skew(seconds, tmp_path)
    assert words in warning
    assert bool(warning) == bool(words)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("h800-0", ["h800-0"]),
        ("h800-[0-1,3],login", ["h800-0", "h800-1", "h800-3", "login"]),
        ("gpu[08-10]", ["gpu08", "gpu09", "gpu10"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_node_names(text: str, names: list[str]) -> None:
    assert expand(text) == names


def test_a_full_disc_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(rundir, "ROOM_BYTES", free // 2)
    assert RunDirectory(tmp_path).room() == ""
    monkeypatch.setattr(rundir, "ROOM_BYTES", free * 2)
    assert re.search(r"\d+ MB are left on the disk of .*: free some space first", RunDirectory(tmp_path).room())
