"""A detached job that has ended is picked up once, by the run that publishes it."""

import dagster as dg
import pytest

from dags.definitions import stage_job
from dags.detached import detached_job_sensor, ended_jobs
from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import BEGUN
from engine.launch.lifetime import lock
from engine.launch.slurm.states import State
from pipelines.stages_file import load_stages_file

KEY = "0123456789abcdef"


@pytest.fixture
def lay(runs):
    """Lay a run directory as the launcher does: submitted, and ended with `status` at `end`."""

    def go(
        stage="pretrain",
        node="train_pretrain",
        job="123",
        status=None,
        end="2026-01-01T00:00:00+00:00",
        key=KEY,
        **more,
    ):
        folder = runs.root / "data" / "smoke" / ".work" / stage / key / "jobs" / node
        write_atomic(folder / "job.json", canonical_json({"id": job, "key": "k", "attempts": 1, **more}))
        if status is not None:
            ended = {"job": job, "attempt": 0, "rc": status, "drain": 0, "done": True, "end": end}
            write_atomic(folder / "exit.json", canonical_json(ended))
        return folder

    return go


@pytest.fixture
def tick(instance):
    sensor = detached_job_sensor("smoke", {stage: stage_job(stage, "smoke") for stage in load_stages_file().stages})

    def go():
        with dg.build_sensor_context(instance=instance) as context:
            return list(sensor(context))

    return go


def test_a_job_that_runs_is_left_alone(lay, tick):
    lay()
    assert [type(result) for result in tick()] == [dg.SkipReason]


def test_the_stage_of_an_ended_job_is_run_once(lay, tick):
    lay(status=0)
    (request,) = tick()
    assert request.job_name == "only_pretrain"
    assert request.tags["k2/slurm_job"] == "123"
    (again,) = tick()
    assert again.run_key == request.run_key, "Dagster drops a request whose key it has seen"
    lay(job="124", status=0, end="2026-01-02T00:00:00+00:00")
    (later,) = tick()
    assert later.run_key != request.run_key


def test_a_failure_is_picked_up_once_whatever_is_submitted_after_it(lay, tick):
    lay(status=1)
    (first,) = tick()
    lay(job="124", status=1, end="2026-01-02T00:00:00+00:00")
    (second,) = tick()
    assert first.run_key == second.run_key


def test_two_jobs_of_one_stage_are_one_run(lay, tick):
    lay("tooluse", "a", "1", 0)
    lay("tooluse", "b", "2", 0)
    lay("rephrase", "c", "3", 0)
    assert {request.job_name for request in tick()} == {"only_tooluse", "only_rephrase"}


def test_a_stage_that_a_driver_attends_is_left_to_it(lay, runs):
    folder = lay(status=0)
    lock_file = lock(folder.parents[2] / "lock", "stage pretrain")
    assert list(ended_jobs("smoke")) == []
    lock_file.close()
    (ended,) = ended_jobs("smoke")
    assert ended.sentence == "stage pretrain, node train_pretrain: detached job 123 is done"


def test_what_another_key_or_ctrl_c_has_left_starts_no_run(lay):
    """Work of other keys stays until it is cleared, and must start no run."""
    for key, started in ((KEY, "2026-01-01"), ("f" * 16, "2026-01-02")):
        work = lay(status=0, key=key).parents[1]
        write_atomic(work / BEGUN, canonical_json({"started": started}))
    assert [job.key for job in ended_jobs("smoke")] == ["f" * 16]
    lay(status=1, key="f" * 16, ended=str(State.CANCELLED))
    assert list(ended_jobs("smoke")) == []
