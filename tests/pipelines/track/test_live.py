"""A stage's rows in MLflow while it runs: each once, through kills, resumes and changed bits."""

from pathlib import Path

import pytest

from engine.identity.records import BEGUN
from pipelines.track.live import Tail
from pipelines.track.session import Session
from pipelines.track.store import PARENT, client
from tests.pipelines.track.stage import Stage, expected, losses, rows, sft_runs

pytestmark = pytest.mark.timeout(600)  # MLflow's first use of a database waits for the disc hundreds of times
PROFILES = iter(["k2", "h200", "moonlight", "laptop", "smoke"])


@pytest.fixture
def profile() -> str:
    """Return a profile, and so an experiment, that no other test of this file has used."""
    return next(PROFILES)


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
    (completed,) = sft_runs(database, profile)
    assert (completed.info.run_id, completed.info.status) == (run.info.run_id, "FINISHED")
    assert losses(database, completed) == expected(1, 9)
    session.take_up()
    assert losses(database, completed) == expected(1, 9)


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


def test_a_paused_stage_is_no_failure_and_goes_on_in_its_run(add_run, database, profile):
    add_run("pretrain", 1, profile)
    session, stage = Session(profile, database), Stage(profile)
    stage.append(rows(1, 3))
    session.take_up()
    stage.append(rows(4, 4))
    stage.end("interrupted")
    session.take_up()
    (paused,) = sft_runs(database, profile)
    parent = client(database).get_run(paused.data.tags[PARENT])
    assert (paused.info.status, parent.info.status) == ("KILLED", "SCHEDULED")
    assert losses(database, paused) == expected(1, 4)
    again = Stage(profile, started="2026-02-01T00:20:00.000000+00:00")
    again.append(rows(5, 6))
    session.take_up()
    (run,) = sft_runs(database, profile)
    assert (run.info.run_id, run.info.status) == (paused.info.run_id, "RUNNING")
    assert client(database).get_run(parent.info.run_id).info.status == "RUNNING"
    again.end(finished="2026-02-01T00:30:00.000000+00:00")
    session.take_up()
    (completed,) = sft_runs(database, profile)
    assert (completed.info.run_id, completed.info.status) == (paused.info.run_id, "FINISHED")
    assert client(database).get_run(parent.info.run_id).info.status == "FINISHED"
    assert losses(database, completed) == expected(1, 6)


def test_a_job_whose_driver_left_is_followed_on(add_run, database, profile):
    add_run("pretrain", 1, profile)
    session, stage = Session(profile, database), Stage(profile)
    stage.append(rows(1, 2))
    stage.end("detached")
    stage.append(rows(3, 4))
    session.take_up()
    (run,) = sft_runs(database, profile)
    assert (run.info.status, losses(database, run)) == ("RUNNING", expected(1, 4))
    job = {
        "id": "7",
        "nodes": ["h800-0", "h800-1"],
        "attempts": 2,
        "queue_seconds": 1.5,
        "run_seconds": 30.0,
        "log": "l",
    }
    attached = Stage(profile, started="2026-02-01T00:05:00.000000+00:00")
    attached.end(finished="2026-02-01T00:20:00.000000+00:00", jobs={"train_sft": job})
    session.take_up()
    (completed,) = sft_runs(database, profile)
    assert (completed.info.run_id, completed.info.status) == (run.info.run_id, "FINISHED")
    assert completed.data.tags["k2.job.train_sft.id"] == "7"
    assert completed.data.tags["k2.job.train_sft.nodes"] == "h800-0,h800-1"
    assert completed.data.metrics["jobs/train_sft/queue_seconds"] == 1.5
    assert completed.data.metrics["jobs/train_sft/attempts"] == 2


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
