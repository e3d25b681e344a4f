"""A materialisation leads to its MLflow run, its Slurm jobs and its line in dvc.lock."""

import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from dags import links
from dags.metadata import materialisation
from pipelines import graph

SERVER = "MLFLOW_TRACKING_URI"


@pytest.fixture(autouse=True)
def asked_anew():
    links._find.cache_clear()


@pytest.fixture
def database(tmp_path):
    """The two tables that are looked at, with the run of one record; tests/ui looks at a database MLflow made."""
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE runs (run_uuid, experiment_id, lifecycle_stage)")
        made.execute("CREATE TABLE tags (key, value, run_uuid)")
        made.executemany("INSERT INTO runs VALUES (?, 3, ?)", [("abc", "active"), ("old", "deleted")])
        made.executemany("INSERT INTO tags VALUES ('k2.record', ?, ?)", [("corpus/known", "abc"), ("corpus/x", "old")])
    return f"sqlite:///{path}"


def record(runs, stage="corpus", name="known"):
    made = runs.add(stage, 1)
    return {**made, "path": made["path"].with_name(f"{name}.json")}


def test_a_run_in_the_local_database_leads_to_its_page(runs, database, monkeypatch):
    monkeypatch.setenv(SERVER, database)
    page = links.mlflow_page("smoke", record(runs))
    assert page.value == "http://127.0.0.1:5000/#/experiments/3/runs/abc"
    assert links.mlflow_page("smoke", record(runs, name="other")) is None
    assert links.mlflow_page("smoke", record(runs, name="x")) is None, "a run that was deleted"


def test_no_database_yet(runs, tmp_path, monkeypatch):
    monkeypatch.setenv(SERVER, f"sqlite:///{tmp_path}/none.db")
    assert links.mlflow_page("smoke", record(runs)) is None
    assert not (tmp_path / "none.db").exists()


def test_a_server_is_asked_by_the_record_s_tag(runs, monkeypatch):
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"experiment": {"experiment_id": "7"}})

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer({"runs": [{"info": {"run_id": "abc"}}]})

        def answer(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(SERVER, uri)
        assert links.mlflow_page("smoke", record(runs)).value == f"{uri}/#/experiments/7/runs/abc"
        server.shutdown()
    assert asked == [{"experiment_ids": ["7"], "filter": "tags.`k2.record` = 'corpus/known'", "max_results": 1}]
    links._find.cache_clear()
    assert "does not answer" in links.mlflow_page("smoke", record(runs)).value


def test_slurm_jobs_are_shown_with_the_end_of_their_log(runs):
    made = runs.add("pretrain", 1)
    log = runs.root / "data/smoke/.runs/pretrain/x/jobs/train/slurm-123.out"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\n" for n in range(5000)) + "  10%\r 100% done\n")
    job = {"id": "123", "nodes": ["h800-0", "h800-1"], "attempts": 2, "queue_seconds": 1.2, "run_seconds": 30.5}
    made["jobs"] = {"train": {**job, "log": log.relative_to(runs.root).as_posix()}}
    shown = materialisation("smoke", "pretrain_history", made)
    assert shown["slurm/train/job"] == "123"
    assert shown["slurm/train/nodes"] == "h800-0, h800-1"
    assert (shown["slurm/train/attempts"], shown["slurm/train/queue_seconds"]) == (2, 1.2)
    assert shown["slurm/train/log"].value == str(log)
    end = shown["slurm/train/log_end"].value.splitlines()
    assert len(end) == links.LOG_LINES + 2
    assert end[-3:] == ["line 4999", " 100% done", "```"]


def test_a_run_in_place_and_an_older_record_have_no_jobs(runs):
    made = runs.add("corpus", 1)
    assert links.slurm_jobs({**made, "jobs": {}}) == links.slurm_jobs(made) == {}


def test_a_log_that_is_gone_is_said_to_be(tmp_path):
    assert links.last_lines(tmp_path / "log") == [f"{tmp_path / 'log'} is not there"]


def test_dvc_s_hash_is_the_one_in_the_lock(runs):
    made = runs.add("corpus", 1)
    assert links.dvc_hash("smoke", "documents") is None
    out = {"path": "data/smoke/corpus/documents", "hash": "md5", "md5": f"{'ab' * 16}.dir"}
    lock = graph.dvc_file("smoke").with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"corpus": {"cmd": "x", "outs": [out]}}}))
    assert materialisation("smoke", "documents", made)["dvc_md5"] == f"{'ab' * 16}.dir"
    assert links.dvc_hash("smoke", "rewrites") is None


def test_a_password_in_the_server_s_address_stays_out_of_the_page(runs, monkeypatch):
    monkeypatch.setenv(SERVER, "http://me:hunter2@127.0.0.1:1/ml")
    assert links.mlflow_page("smoke", record(runs)).text.startswith("http://***@127.0.0.1:1/ml does not answer")
    monkeypatch.setattr(links, "_find", lambda *_: ("3", "abc"))
    assert links.mlflow_page("smoke", record(runs)).value == "http://127.0.0.1:1/ml/#/experiments/3/runs/abc"


def test_a_record_shows_no_log_from_outside_the_repository(runs):
    job = {"id": 1, "nodes": ["a"], "attempts": 1}
    for log in ("../../../etc/hostname", "/etc/hostname"):
        shown = links.slurm_jobs({**runs.add("sft", 1), "jobs": {"train": {**job, "log": log}}})
        assert shown["slurm/train/log"].startswith("not shown: ")
        assert "slurm/train/log_end" not in shown
