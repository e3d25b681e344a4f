"""Run records in MLflow: imported whole, once, resumable, and never at a run's expense."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.identity.records import PULLED
from pipelines.stages_file import ROOT
from pipelines.track.importer import Importer, read_all_records, record_name
from pipelines.track.run_ids import SUFFIX, RunId, read_run_id
from pipelines.track.session import Away, Session
from pipelines.track.store import Store, client, experiment_name
from pipelines.track.watch import sum_up

pytestmark = pytest.mark.timeout(600)  # MLflow's first use of a database waits for the disc hundreds of times
PROFILES = iter(["smoke", "laptop", "h200", "moonlight", "k2"])


@pytest.fixture
def profile() -> str:
    """Return a profile, and so an experiment, that no other test has used."""
    return next(PROFILES)


def track(profile: str, uri: str) -> None:
    Session(profile, uri).take_up()


def runs_of(uri: str, profile: str) -> dict[str, Any]:
    store = client(uri)
    experiment = store.get_experiment_by_name(experiment_name(profile))
    assert experiment is not None
    return {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}


def datasets(run: Any, context: str) -> set[str]:
    return {
        entry.dataset.name
        for entry in run.inputs.dataset_inputs
        if {tag.key: tag.value for tag in entry.tags}["mlflow.data.context"] == context
    }


def leave_outputs_unmade(path):
    """Change the record to the old form for a run of only some nodes of a stage."""
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "outputs": {"rollouts": "e" * 32, "rl_checkpoint": None}}))


def test_what_was_pulled_is_no_run_of_here(add_run):
    """Its run is in the place where it was made, under another name than a record here would give it."""
    pulled, own = add_run("corpus", 1), add_run("rephrase", 2)
    content = json.loads(pulled["path"].read_bytes())
    pulled["path"].write_text(json.dumps({**content, "outcome": PULLED}))
    assert [record["path"] for record in read_all_records("smoke")] == [own["path"]]


def test_a_run_arrives_whole(add_run, database, profile):
    add_run("corpus", 1, profile)
    add_run("pretrain", 2, profile, lr=0.01, steps=5)
    leave_outputs_unmade(add_run("rl", 3, profile, outcome="partial")["path"])
    track(profile, database)
    imported = runs_of(database, profile)
    assert {name for name in imported["rl"].data.tags if name.startswith("output.")} == {"output.rollouts"}
    pretrain, parent = imported["pretrain"], next(run for name, run in imported.items() if name.startswith(profile))
    assert pretrain.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert pretrain.data.params == {"pretrain.lr": "0.01", "pretrain.steps": "5"}
    assert pretrain.data.metrics["loss"] == 2.5
    assert pretrain.data.metrics["seconds"] == 30
    assert parent.data.metrics["pretrain/loss"] == 2.5
    assert parent.data.params["pretrain.lr"] == "0.01"
    curve = client(database).get_metric_history(pretrain.info.run_id, "curves/loss")
    assert [(point.step, point.value) for point in curve] == [(step, 3.0 - step / 10) for step in range(5)]
    assert pretrain.data.metrics["curves/experts.max"] == 2
    assert datasets(pretrain, "input") == {"tokenizer", "shards"}
    assert datasets(pretrain, "output") == {"base_checkpoint", "pretrain_history", "pretrain_metrics"}
    assert [a.path for a in client(database).list_artifacts(pretrain.info.run_id, "plots/pretrain_history")] == [
        "plots/pretrain_history/loss.png"
    ]


def test_importing_again_changes_nothing_and_a_new_run_is_added(add_run, database, profile):
    first = add_run("pretrain", 1, profile, lr=0.01)
    track(profile, database)
    before = {name: run.to_dictionary() for name, run in runs_of(database, profile).items()}
    track(profile, database)
    assert {name: run.to_dictionary() for name, run in runs_of(database, profile).items()} == before
    first["path"].with_suffix(SUFFIX).unlink()  # as if an older version had imported that one
    add_run("pretrain", 2, profile, lr=0.02)
    add_run("pretrain", 3, profile, outcome="failed", lr=0.02)
    track(profile, database)
    records = read_all_records(profile)
    store = Store(client(database), profile)
    assert Importer(store).import_all(records) == 0
    stage_runs = [run for name, run in store.runs.items() if name.startswith("pretrain/")]
    assert sorted(run.info.status for run in stage_runs) == ["FAILED", "FINISHED", "FINISHED"]
    assert {run.data.tags.get("k2.error") for run in stage_runs} == {None, "the disk is full"}
    assert [read_run_id(record, database) for record in records] == [
        RunId(store.experiment, store.id_of(record_name(record))) for record in records
    ]


def test_an_import_that_breaks_off_is_completed_by_the_next(add_run, database, profile, monkeypatch):
    add_run("pretrain", 1, profile, lr=0.01)

    class Broken(Exception):
        pass

    def break_off(*_: object) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_datasets", break_off)
        with pytest.raises(Broken):
            track(profile, database)
    track(profile, database)
    imported = runs_of(database, profile)
    assert len(imported) == 2, "the half-written run was taken up, not doubled"
    history = client(database).get_metric_history(imported["pretrain"].info.run_id, "curves/loss")
    assert len(history) == 5
    assert imported["pretrain"].data.tags["k2.complete"] == "true"


def test_a_dead_server_costs_a_warning_and_the_records_stay(add_run, capsys):
    record = add_run("pretrain", 1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert not sum_up(Session("smoke", uri))
    assert "warning: MLflow at" in capsys.readouterr().err
    assert Path(record["path"]).is_file()


def test_after_a_pause_nothing_is_printed_after_the_commands_last_line(add_run, database, capsys):
    add_run("corpus", 1)
    assert sum_up(Session("smoke", database), quietly=True)
    assert not capsys.readouterr().err
    assert sum_up(Session("smoke", database))
    assert "stage runs of profile smoke imported" in capsys.readouterr().err


def garbage(folder: Path) -> Path:
    path = folder / "mlflow.db"
    path.write_bytes(b"no database " * 100)
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "mlflow.db"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (garbage, r"file is not a database: `mv (\S+) \1\.damaged`, and the next import fills a new one"),
        (a_folder, "unable to open database file"),
        (lambda folder: garbage(folder) / "mlflow.db", "File exists|Not a directory"),
        (lambda folder: Path("/proc/mlflow.db"), "unable to open database file"),
    ],
    ids=["garbage", "folder", "below a file", "unwritable"],
)
def test_a_store_that_cannot_be_used_costs_seconds_and_a_sentence(add_run, capsys, tmp_path, monkeypatch, make, says):
    add_run("pretrain", 1)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    session = Session("smoke", f"sqlite:///{make(tmp_path)}")
    assert not sum_up(session)
    with pytest.raises(Away, match=says):
        session.require_usable()
    line = capsys.readouterr().err.strip()
    assert re.search(says, line)
    assert line.startswith("warning: MLflow at sqlite:///")
    assert "\n" not in line
    assert sum(waits) < 2


def test_the_password_of_a_store_is_never_printed(add_run, capsys):
    add_run("pretrain", 1)
    for uri in (
        "http://me:hunter2@[bad",
        "http://me:hunter2@127.0.0.1:port",
        "http://me:hunter2@127.0.0.1:1",
        "postgresql://me:hunter2@127.0.0.1:1/x",
        "oddity://me:hunter2@x",
    ):
        assert not sum_up(Session("smoke", uri))
    output = "".join(capsys.readouterr())
    assert output.count("://***@") >= 5
    assert "hunter2" not in output


def test_curves_that_a_later_run_replaced_are_not_taken_for_its_own(add_run, database, profile):
    first = add_run("pretrain", 1, profile, lr=0.01)
    add_run("pretrain", 2, profile, lr=0.02)
    track(profile, database)
    old = Store(client(database), profile).runs[f"pretrain/{first['path'].stem}"]
    assert "curves/loss" not in old.data.metrics
    assert old.data.metrics["loss"] == 2.5
    assert old.data.params == {"pretrain.lr": "0.01"}


def test_the_command_refuses_an_unknown_profile_in_one_sentence():
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.track", "--env", "lptop"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: there is no profile 'lptop'")
    assert "Traceback" not in process.stderr


def test_a_deleted_experiment_is_restored_with_a_message(add_run, database, profile, capsys):
    add_run("corpus", 1, profile)
    track(profile, database)
    before = runs_of(database, profile)
    experiment = client(database).get_experiment_by_name(experiment_name(profile))
    assert experiment is not None
    client(database).delete_experiment(experiment.experiment_id)
    add_run("tooluse", 1, profile)
    assert sum_up(Session(profile, database))
    assert (
        f"the experiment {experiment_name(profile)} had been deleted there and is restored" in capsys.readouterr().err
    )
    assert runs_of(database, profile).keys() > before.keys()
