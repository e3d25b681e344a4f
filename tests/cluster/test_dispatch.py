"""Dispatch of the graph's own stages to a real Slurm, by the commands that users type."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from tests.cluster.harness import Cluster
from tests.cluster.training import STAGE, STEPS, Driver, Training, command

pytestmark = pytest.mark.slow


def refused(training: Training, *options: str, **changes: object) -> str:
    """Return the one sentence with which a wrong command ends."""
    training.use(**changes)
    process = training.project.run(*command(), *options, check=False)
    assert process.returncode == 1, process.stdout + process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr
    assert "Traceback" not in process.stderr
    return errors[0]


def test_what_a_watcher_sees_of_an_undisturbed_job(training: Training) -> None:
    """Slurm's changes of state, the job's live log, the driver that publishes; its record and what is kept.

    It ends in the same bits as two processes on this machine do.
    """
    driver = training.start()
    record = training.check_end(driver, first=0)
    output = driver.output()
    for words in (
        "submitted; run directory",
        "running on h800-[0-1]",
        "attempt 0, on h800-[0-1]",
        "succeeded",
        "done in",
    ):
        assert words in output
    assert "pretrain: 40/40" in output
    (job,) = record["jobs"].values()
    assert job["attempts"] == 1
    assert job["nodes"] == ["h800-0", "h800-1"]
    assert 0 < job["run_seconds"] < record["seconds"]
    log = training.project.path / job["log"]
    assert "pretrain: 40/40" in log.read_text()
    figures = json.loads((log.parent / "metrics.json").read_text())
    assert (figures["step"], figures["steps"]) == (STEPS, STEPS)
    assert figures["loss"] > 0
    assert figures["tokens_per_second"] > 0


def test_a_dry_run_prints_the_script_and_does_nothing(training: Training) -> None:
    before = sorted(training.project.data().rglob("*"))
    process = training.project.run(*command(), "--dry-run")
    assert process.stdout.startswith("#!/bin/bash\n#SBATCH --job-name=k2-smoke-pretrain-train_pretrain\n")
    assert "--gres=gpu:h800:8" in process.stdout
    assert sorted(training.project.data().rglob("*")) == before
    training.check_jobs(0)


def test_detached_and_attached_again(training: Training) -> None:
    process = training.project.run(*command(), "--detach", check=False)
    assert process.returncode == 75
    line = process.stderr.splitlines()[-1]
    assert training.job in line
    assert str(training.directory) in line
    assert training.project.records(STAGE)[-1]["outcome"] == "detached"
    driver = training.start()
    training.check_end(driver)
    assert "attached to again" in driver.output()


def test_a_job_that_ended_unseen_is_published(training: Training, cluster: Cluster) -> None:
    """Even where Slurm has forgotten it: its exit.json is there."""
    assert training.project.run(*command(), "--detach", check=False).returncode == 75
    training.wait_for((training.directory / "exit.json").exists, "the job's end")
    training.wait_for(lambda: not cluster.jobs(), "an empty queue")
    training.check_end(training.start())


def interrupted(training: Training, number: signal.Signals) -> Driver:
    """Return a driver that gets a signal while the job trains."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver, step=2)
    driver.process.send_signal(number)
    training.wait_for(lambda: "Ctrl-C" in driver.output() or driver.process.poll() is not None, "an answer", None)
    training.go_on(ranks)
    return driver


def test_ctrl_c_cancels(training: Training, cluster: Cluster) -> None:
    driver = interrupted(training, signal.SIGINT)
    assert driver.wait() == 130
    assert training.project.records(STAGE)[-1]["outcome"] == "interrupted"
    assert f"job {training.job} is being cancelled; Ctrl-C again leaves at once" in driver.output()
    assert "was cancelled by Ctrl-C" in driver.output().splitlines()[-1]
    assert cluster.job(training.job)["JobState"] == "CANCELLED"
    training.check_end(training.start(), jobs=2, attempts=2)


def test_sigterm_leaves_the_job(training: Training, cluster: Cluster) -> None:
    driver = interrupted(training, signal.SIGTERM)
    assert driver.wait() == 75
    assert cluster.job(training.job)["JobState"] in {"RUNNING", "COMPLETING", "COMPLETED"}
    training.check_end(training.start(), jobs=1, attempts=1)


def test_a_second_ctrl_c_leaves_at_once(training: Training, cluster: Cluster) -> None:
    """With a dead controller scancel has no effect, and the user need not wait for it."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver, step=2)
    cluster.kill_controller()
    driver.process.send_signal(signal.SIGINT)
    training.wait_for(lambda: "Ctrl-C again" in driver.output(), "the announcement")
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait() == 75
    cluster.start_controller()
    training.go_on(ranks)
    training.start().wait()


def test_another_key_beside_a_job_that_works(training: Training, cluster: Cluster) -> None:
    """The job has to end first; its work stays, and is resumed when its key is back. --fresh drops its own key's."""
    driver = interrupted(training, signal.SIGTERM)
    assert driver.wait() == 75
    job, directory = training.job, training.directory
    ranks = training.ranks()
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    path = training.project.path / "conf/smoke/parameters/pretrain.yml"
    before = path.read_text()
    try:
        changed = yaml.safe_load(before)
        changed[STAGE]["schedule"]["phases"][0]["length"] += 1
        path.write_text(yaml.safe_dump(changed))
        training.project.run("python", "-m", "pipelines.commands.code", "--env", "smoke")
        error = refused(training)
        assert f"job {job} still works under another key" in error
        assert f"`scancel {job}`" in error
        assert "still works" in refused(training, "--fresh"), "that is for the work of its own key"
        cluster.cancel_all()
        assert training.project.run(*command(), "--detach", check=False).returncode == 75
        cluster.cancel_all()
        assert directory.exists()
    finally:
        path.write_text(before)
        training.project.run("python", "-m", "pipelines.commands.code", "--env", "smoke")
    marker = directory / "of the first"
    marker.touch()
    assert training.project.run(*command(), "--detach", check=False).returncode == 75
    assert marker.exists()
    for _ in range(2):
        before_it = cluster.jobs()
        assert training.project.run(*command(), "--fresh", "--detach", check=False).returncode == 75
        assert not marker.exists()
    assert [cluster.job(job)["JobState"] for job in before_it] == ["CANCELLED"]
    cluster.cancel_all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "h900"}, "invalid partition specified: h900"),
        ({"gres_type": "a100"}, "Requested node configuration is not available"),
        ({"gres_type": "h800", "gpus_per_node": 9}, "Requested node configuration is not available"),
    ],
)
def test_refused_in_slurms_words(training: Training, changes: dict[str, object], words: str) -> None:
    assert words in refused(training, **changes)
    assert training.cluster.jobs() == []
    assert words in refused(training, **changes), "it is asked again, and no trace of the first is taken for a job"


def test_no_sbatch_on_path(training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(training.project.run("which", "python").stdout.strip()).parent
    monkeypatch.setitem(training.project.environment, "PATH", f"{folder}:{tmp_path}")
    assert "there is no `s" in refused(training)


def test_a_request_that_can_never_be_met_is_warned_of(training: Training) -> None:
    training.use(nodes=9)
    driver = training.start()
    training.wait_for(lambda: "may never start: Slurm says Partition" in driver.output(), "a warning", driver)
    assert driver.process.poll() is None
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait() == 130
    assert training.cluster.jobs() == []


def test_an_unwritable_run_directory(training: Training) -> None:
    training.project.run(*command(), "--detach", check=False)
    training.cluster.cancel_all()
    jobs = training.directory.parent
    training.project.run("rm", "-rf", str(jobs))
    jobs.write_text("in the way")
    assert f"{jobs}/train_pretrain cannot be written" in refused(training)
