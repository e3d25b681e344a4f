"""A materialisation leads to its MLflow run, its Slurm jobs and its line in dvc.lock."""

import yaml

from dags import links
from dags.metadata import materialisation
from pipelines import graph
from pipelines.track.run_ids import RunId, write_run_id

SERVER = "MLFLOW_TRACKING_URI"


def test_an_imported_run_leads_to_its_page_in_the_local_database(runs, tmp_path, monkeypatch):
    monkeypatch.setenv(SERVER, f"sqlite:///{tmp_path}/mlflow.db")
    record, other = runs.add("corpus", 1), runs.add("corpus", 2)
    write_run_id(record, f"sqlite:///{tmp_path}/mlflow.db", RunId("3", "abc"))
    assert links.mlflow_page(record).value == "http://127.0.0.1:5000/#/experiments/3/runs/abc"
    assert links.mlflow_page(other) is None
    assert not (tmp_path / "mlflow.db").exists(), "MLflow itself is not opened"


def test_a_run_leads_to_the_store_that_is_in_use(runs, monkeypatch):
    record = runs.add("corpus", 1)
    write_run_id(record, "http://one:5000", RunId("3", "abc"))
    write_run_id(record, "http://two:5000/ml/", RunId("7", "def"))
    pages = {}
    for uri in ("http://one:5000/", "http://two:5000/ml", "http://three:5000"):
        monkeypatch.setenv(SERVER, uri)
        page = links.mlflow_page(record)
        pages[uri] = page and page.value
    assert pages == {
        "http://one:5000/": "http://one:5000/#/experiments/3/runs/abc",
        "http://two:5000/ml": "http://two:5000/ml/#/experiments/7/runs/def",
        "http://three:5000": None,
    }


def test_slurm_jobs_are_shown_with_the_end_of_their_log(runs):
    record = runs.add("pretrain", 1)
    log = runs.root / "data/smoke/.runs/pretrain/x/jobs/train/slurm-123.out"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\n" for n in range(5000)) + "  10%\r 100% done\n")
    job = {"id": "123", "nodes": ["h800-0", "h800-1"], "attempts": 2, "queue_seconds": 1.2, "run_seconds": 30.5}
    record["jobs"] = {"train": {**job, "log": log.relative_to(runs.root).as_posix()}}
    shown = materialisation("smoke", "pretrain_history", record)
    assert shown["slurm/train/job"] == "123"
    assert shown["slurm/train/nodes"] == "h800-0, h800-1"
    assert (shown["slurm/train/attempts"], shown["slurm/train/queue_seconds"]) == (2, 1.2)
    assert shown["slurm/train/log"].value == str(log)
    end = shown["slurm/train/log_end"].value.splitlines()
    assert len(end) == links.LOG_LINES + 2
    assert end[-3:] == ["line 4999", " 100% done", "```"]


def test_a_run_in_place_and_an_older_record_have_no_jobs(runs):
    record = runs.add("corpus", 1)
    assert links.slurm_jobs({**record, "jobs": {}}) == links.slurm_jobs(record) == {}


def test_a_log_that_is_gone_is_reported_as_gone(tmp_path):
    assert links.last_lines(tmp_path / "log") == [f"{tmp_path / 'log'} is not there"]


def test_dvc_s_hash_is_the_one_in_the_lock(runs):
    record = runs.add("corpus", 1)
    assert links.dvc_hash("smoke", "documents") is None
    out = {"path": "data/smoke/corpus/documents", "hash": "md5", "md5": f"{'ab' * 16}.dir"}
    lock = graph.dvc_file("smoke").with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"corpus": {"cmd": "x", "outs": [out]}}}))
    assert materialisation("smoke", "documents", record)["dvc_md5"] == f"{'ab' * 16}.dir"
    assert links.dvc_hash("smoke", "rewrites") is None


def test_a_password_in_the_server_s_address_stays_out_of_the_page(runs, monkeypatch):
    uri = "http://me:hunter2@127.0.0.1:1/ml"
    monkeypatch.setenv(SERVER, uri)
    record = runs.add("corpus", 1)
    write_run_id(record, uri, RunId("3", "abc"))
    assert links.mlflow_page(record).value == "http://127.0.0.1:1/ml/#/experiments/3/runs/abc"


def test_a_record_shows_no_log_from_outside_the_repository(runs):
    job = {"id": 1, "nodes": ["a"], "attempts": 1}
    for log in ("../../../etc/hostname", "/etc/hostname"):
        shown = links.slurm_jobs({**runs.add("sft", 1), "jobs": {"train": {**job, "log": log}}})
        assert shown["slurm/train/log"].startswith("not shown: ")
        assert "slurm/train/log_end" not in shown
