"""A stage's rows in MLflow while it runs: each once, through kills, resumes and changed bits."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import BEGUN, write_record
from pipelines import graph
from pipelines.track.live import Tail
from pipelines.track.session import Session
from pipelines.track.store import client, experiment_name

PROFILES = iter(["k2", "h200", "moonlight"])
KEY = "0123456789abcdef"


@pytest.fixture
def profile() -> str:
    """A profile, and so an experiment, that no other test of this file has used."""
    return next(PROFILES)


def rows(first: int, last: int, shift: float = 0.0) -> str:
    return "".join(json.dumps({"step": n, "loss": 3 - n / 10 + shift}) + "\n" for n in range(first, last + 1))


class Stage:
    """sft in a workspace, as the runner and the training loop write it."""

    def __init__(self, profile: str, started: str = "2026-02-01T00:00:00.000000+00:00") -> None:
        self.profile, self.started = profile, started
        self.workspace = graph.data_folder(profile) / ".work" / "sft" / KEY
        self.history = self.workspace / "training" / "history.jsonl"
        self.history.parent.mkdir(parents=True, exist_ok=True)
        outline = graph.stage_graph("sft")
        inputs = {name: str(graph.digest_of(profile, name)) for name in outline.inputs}
        self.begun = {
            "stage": "sft", "profile": profile, "key": KEY, "started": started, "attempt": 1,
            "parts": {"code": {}, "parameters": {"sft.lr": 0.1}, "inputs": inputs},
            "user": "ann", "host": "box", "commit": "c" * 40, "dirty": False,
        }  # fmt: skip
        write_atomic(self.workspace / BEGUN, canonical_json(self.begun))

    def append(self, text: str) -> None:
        with self.history.open("a") as file:
            file.write(text)

    def end(self, outcome: str = "success", finished: str = "2026-02-01T00:10:00.000000+00:00") -> None:
        """The record, and the history beside it, as the runner leaves them."""
        record = {
            **self.begun, "outcome": outcome, "error": None if outcome == "success" else "killed", "outputs": {},
            "finished": finished, "seconds": 600.0, "node_seconds": {}, "metrics": {}, "jobs": {},
        }  # fmt: skip
        path = write_record(graph.data_folder(self.profile) / ".runs" / "sft", record)
        write_atomic(path.with_suffix("") / "history.jsonl", self.history.read_bytes())


def sft_runs(uri: str, profile: str) -> list[Any]:
    store = client(uri)
    experiment = store.get_experiment_by_name(experiment_name(profile))
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id], "tags.`k2.stage` = 'sft'"))


def losses(uri: str, run: Any) -> list[tuple[int, float]]:
    history = client(uri).get_metric_history(run.info.run_id, "curves/loss")
    return sorted((point.step, round(point.value, 6)) for point in history)


def expected(first: int, last: int) -> list[tuple[int, float]]:
    return [(n, round(3 - n / 10, 6)) for n in range(first, last + 1)]


def test_rows_arrive_while_the_stage_runs_and_its_record_completes_the_same_run(add_run, database, profile):
    add_run("pretrain", 1, profile)
    session, stage = Session(profile, database), Stage(profile)
    stage.append(rows(1, 4) + '{"step": 5, "lo')
    session.take_up()
    (run,) = sft_runs(database, profile)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"sft.lr": "0.1"}
    assert losses(database, run) == expected(1, 4), "the row that is being written waits"
    stage.append('ss": 2.5}\n' + rows(6, 7))
    session.take_up()
    assert losses(database, run) == expected(1, 7)
    stage.append(rows(8, 9))
    stage.end()
    Session(profile, database).take_up()  # another process: nothing but the store knows what is there
    (done,) = sft_runs(database, profile)
    assert (done.info.run_id, done.info.status) == (run.info.run_id, "FINISHED")
    assert losses(database, done) == expected(1, 9)
    session.take_up()
    assert losses(database, done) == expected(1, 9)


def test_a_resumed_stage_goes_on_in_its_run_and_doubles_no_step_even_with_other_bits(add_run, database, profile):
    add_run("pretrain", 1, profile)
    session, stage = Session(profile, database), Stage(profile)
    stage.append(rows(1, 6))
    session.take_up()
    stage.history.write_text(rows(1, 4))  # killed, and cut back to its checkpoint
    again = Stage(profile, started="2026-02-01T00:05:00.000000+00:00")
    again.append(rows(5, 5, shift=1e-3))
    session.take_up()
    again.append(rows(6, 8))
    session.take_up()
    again.end()
    session.take_up()
    (run,) = sft_runs(database, profile)
    assert losses(database, run) == expected(1, 8)


def test_a_failed_run_keeps_its_curve_and_the_next_attempt_has_a_run_of_its_own(add_run, database, profile):
    add_run("pretrain", 1, profile)
    session, stage = Session(profile, database), Stage(profile)
    stage.append(rows(1, 3))
    session.take_up()
    stage.append(rows(4, 5))
    stage.end("failed")
    session.take_up()
    (failed,) = sft_runs(database, profile)
    assert (failed.info.status, losses(database, failed)) == ("FAILED", expected(1, 5))
    again = Stage(profile, started="2026-02-01T01:00:00.000000+00:00")
    again.append(rows(6, 6))
    session.take_up()
    dropped = next(run for run in sft_runs(database, profile) if run.info.run_id != failed.info.run_id)
    assert losses(database, dropped) == expected(1, 6)
    (again.workspace / BEGUN).unlink()  # its work is dropped: `--fresh`, or another key
    Session(profile, database).take_up()
    statuses = {run.info.run_id: run.info.status for run in sft_runs(database, profile)}
    assert statuses == {failed.info.run_id: "FAILED", dropped.info.run_id: "KILLED"}


def test_a_history_cut_and_grown_again_past_what_was_read_is_read_anew(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    tail = Tail(path)
    assert tail.points() == []
    path.write_text(rows(1, 5))
    assert [point.step for point in tail.points()] == [1, 2, 3, 4, 5]
    path.write_text(rows(1, 3) + rows(4, 4, shift=1e-9) + rows(5, 8, shift=1e-7))  # other bits, hence other lengths
    assert [point.step for point in tail.points()] == list(range(1, 9))
