"""The file beside a run record that says which MLflow run it was imported as."""

import pytest

from engine.artifacts.files import read_object
from pipelines.track.run_ids import SUFFIX, RunId, read_run_id, write_run_id

ONE, TWO = "sqlite:////here/mlflow.db", "http://me:hunter2@host:5000/ml"


def test_a_record_has_one_run_in_each_store(add_run):
    record = add_run("pretrain", 1)
    assert read_run_id(record, ONE) is None
    write_run_id(record, ONE, RunId("1", "a"))
    write_run_id(record, TWO, RunId("2", "b"))
    write_run_id(record, ONE, RunId("1", "c"))  # the run was deleted, and imported anew
    assert read_run_id(record, ONE) == RunId("1", "c")
    assert read_run_id(record, TWO) == read_run_id(record, "http://host:5000/ml/") == RunId("2", "b")
    assert read_run_id(add_run("pretrain", 2), ONE) is None


def test_no_password_is_written_and_nothing_is_written_twice(add_run):
    record = add_run("pretrain", 1)
    write_run_id(record, TWO, RunId("2", "b"))
    path = record["path"].with_suffix(SUFFIX)
    assert read_object(path) == {"http://host:5000/ml": {"experiment": "2", "run": "b"}}
    first_stat = path.stat()
    write_run_id(record, TWO, RunId("2", "b"))
    assert path.stat().st_ino == first_stat.st_ino, "a second import leaves the file alone"


@pytest.mark.parametrize("content", ["", "{", '{"sqlite:////here/mlflow.db": {"run": 3}}'])
def test_a_damaged_file_leads_nowhere_and_is_written_again(add_run, content, recwarn):
    record = add_run("pretrain", 1)
    record["path"].with_suffix(SUFFIX).write_text(content)
    assert read_run_id(record, ONE) is None
    write_run_id(record, ONE, RunId("1", "a"))
    assert read_run_id(record, ONE) == RunId("1", "a")
