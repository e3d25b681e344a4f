"""Everything that may befall a two-node training job: resumed without a person where it can, in the very same bits.

What Slurm says in each case stands in the table of engine/launch/slurm/states.py. Each test ends with the undisturbed
run's weights, history and final state, no step lost or doubled, and never two jobs for one key.
"""

import signal
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.training import MIDDLE, Training, fill, small_disc
from tests.project import shim

pytestmark = pytest.mark.slow


def test_requeued(training: Training, cluster: Cluster) -> None:
    driver = training.start()
    training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    cluster.scontrol("requeue", training.job)
    training.check_end(driver, jobs=1, attempts=2, first=checkpoint)


def test_preempted(training: Training, cluster: Cluster) -> None:
    driver = training.start()
    training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    urgent = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.command("sbatch", "--parsable", *urgent)
    training.check_end(driver, jobs=1, attempts=2, first=checkpoint)


def test_node_down(training: Training, cluster: Cluster) -> None:
    """The administrator takes the node out of service: Slurm takes its jobs from it at once."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    cluster.node_down("h800-1")
    training.wait_for_attempt(1, driver)
    training.go_on(ranks)  # one of them is on a node that Slurm has given up, and finds its partner gone
    training.check_end(driver, jobs=1, attempts=2, first=checkpoint)


def test_slurmd_killed(training: Training, cluster: Cluster) -> None:
    """Slurm notices after SlurmdTimeout; until then, and after, the node's rank lives on."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    cluster.kill_node("h800-1")
    training.wait_for_attempt(1, driver)
    training.go_on(ranks)
    record = training.check_end(driver, jobs=1, attempts=2, first=checkpoint)
    assert record["jobs"]["train_pretrain"]["nodes"] == ["h800-0", "h800-1", "h800-2"]


def test_slurmd_killed_and_started_again(training: Training, cluster: Cluster) -> None:
    """A restart of slurmd does not affect the job."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    cluster.kill_node("h800-1")
    cluster.start_node("h800-1")
    training.go_on(ranks)
    training.check_end(driver, jobs=1, attempts=1, first=0)


def test_slurmstepd_killed(training: Training, cluster: Cluster) -> None:
    """Slurm reports the job as running for ever, but its driver misses the heartbeat."""
    training.use(heartbeat_stale_s=15)
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    (step,) = [process for process in cluster.job_processes("h800-1") if process.name() == "slurmstepd"]
    step.kill()
    training.go_on(ranks)
    training.check_end(driver, jobs=1, attempts=2, first=checkpoint)
    assert "no sign of life" in driver.output()


def test_controller_killed_before(training: Training, cluster: Cluster) -> None:
    cluster.kill_controller()
    driver = training.start()
    training.wait_for(lambda: "controller does not answer" in driver.output(), "the driver's word", driver)
    cluster.start_controller()
    training.check_end(driver, jobs=1, attempts=1, first=0)


def test_controller_killed_during(training: Training, cluster: Cluster) -> None:
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    cluster.wait_for_saved_state()
    cluster.kill_controller()
    training.wait_for(lambda: "controller does not answer" in driver.output(), "the driver's word", driver)
    cluster.start_controller()
    training.go_on(ranks)
    training.check_end(driver, jobs=1, attempts=1, first=0)


def test_controller_killed_and_the_job_ends_before_it_is_back(training: Training, cluster: Cluster) -> None:
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    cluster.wait_for_saved_state()
    cluster.kill_controller()
    training.go_on(ranks)
    training.wait_for((training.directory / "exit.json").exists, "exit.json", driver)
    training.wait_for(lambda: "controller does not answer" in driver.output(), "the driver's word", driver)
    cluster.start_controller()
    training.check_end(driver, jobs=1, attempts=1, first=0)


def test_controller_forgets_the_job_and_gives_its_id_to_another(
    training: Training, cluster: Cluster, tmp_path: Path
) -> None:
    """Killed within moments of sbatch. The job of that id is not ours, and none of its business."""
    controller = cluster.controller.process
    assert controller
    state, copy = cluster.root / "state", tmp_path / "state"
    moment = {  # it may save at once, or in five seconds: what it saves after sbatch is taken from it
        "before": f"cp -a {state} {copy}",
        "after": f"kill -9 {controller.pid}; sleep 0.5; rm -r {state}; cp -a {copy} {state}",
    }
    driver = training.start(path=shim(tmp_path / "bin", "sbatch", **moment))
    training.wait_for(lambda: not cluster.controller.alive, "the kill", driver)
    training.wait_for(lambda: training.job != "", "the job's id", driver)
    forgotten = training.job
    (tmp_path / "bin" / "sbatch").unlink()
    cluster.start_controller()
    other = cluster.command("sbatch", "--parsable", "--output=/dev/null", "--hold", "--wrap=true")
    assert other == forgotten
    training.check_end(driver, jobs=1, first=0, attempts=None)
    assert cluster.job(other)["JobState"] == "PENDING"
    assert "is known to nobody" in driver.output()


def test_driver_killed(training: Training) -> None:
    first = training.start()
    ranks = training.stop_in_the_middle(first)
    first.kill()
    second = training.start()
    training.wait_for(lambda: "attached to again" in second.output(), "the second driver", second)
    training.go_on(ranks)
    training.check_end(second, jobs=1, attempts=1, first=0)


@pytest.mark.parametrize("moment", [{"before": "kill -9 $PPID; exit 1"}, {"after": "kill -9 $PPID"}], ids=str)
def test_driver_killed_before_the_id_is_written(training: Training, tmp_path: Path, moment: dict[str, str]) -> None:
    """The driver dies before it calls sbatch, and after sbatch has submitted the job but not returned."""
    first = training.start(path=shim(tmp_path / "bin", "sbatch", **moment))
    assert first.wait() == -signal.SIGKILL
    assert (training.directory / "key").exists()
    assert training.job == ""
    training.check_jobs(1 if "after" in moment else 0)
    training.check_end(training.start(), jobs=1, attempts=1, first=0)


def test_two_drivers(training: Training) -> None:
    first = training.start()
    ranks = training.stop_in_the_middle(first)
    second = training.start()
    assert second.wait() == 1
    assert "already running" in second.output()
    training.go_on(ranks)
    training.check_end(first, jobs=1, attempts=1, first=0)


def test_warned_before_its_time_is_up(training: Training) -> None:
    """Slurm's warning, which may come a minute early, has it leave a checkpoint; it then requeues itself."""
    training.use(time="3", drain_lead_s=60)
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    training.wait_for((training.directory / "drain").exists, "the warning", driver)
    training.go_on(ranks)
    training.wait_for_attempt(1, driver)
    checkpoint = training.checkpoint()
    assert checkpoint >= MIDDLE, "the checkpoint is of the step at which it was warned, not of the last that was due"
    training.check_end(driver, jobs=1, attempts=2, first=checkpoint)


def test_time_is_up(training: Training) -> None:
    """Slurm never requeues such a job: another goes on, since this one has left checkpoints."""
    training.use(time="2", drain_lead_s=0)
    driver = training.start()
    training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    training.check_end(driver, jobs=2, attempts=2, first=checkpoint)
    assert "ran out of time" in driver.output()


def test_a_rank_exits_with_an_error(training: Training, cluster: Cluster) -> None:
    """The user reads the rank's own sentence; the job is not tried again, since it would end the same."""
    cluster.scontrol("update", "partitionname=h800", "state=down")
    driver = training.start()
    training.wait_for(lambda: "may never start" in driver.output(), "the driver's warning", driver)
    shard = next(training.project.data("tokenization").glob("**/*.bin"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    cluster.scontrol("update", "partitionname=h800", "state=up")
    assert driver.wait() == 1
    assert f"error: {shard.parent}" in driver.output() or shard.name in driver.output().splitlines()[-1], (
        driver.output()
    )
    training.check_jobs(1)
    shard.write_bytes(content)
    training.check_end(training.start(), jobs=2, attempts=2, first=0)


def test_a_rank_is_killed(training: Training) -> None:
    """A killed rank is no error of the work: another job resumes it."""
    driver = training.start()
    ranks = training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    ranks[1].kill()
    training.go_on(ranks[:1])
    training.check_end(driver, jobs=2, attempts=2, first=checkpoint)


def test_cancelled(training: Training, cluster: Cluster) -> None:
    """A cancelled job stays ended; the same command resumes the work."""
    driver = training.start()
    training.stop_in_the_middle(driver)
    checkpoint = training.checkpoint()
    cluster.command("scancel", training.job)
    assert driver.wait() == 1
    assert "was cancelled" in driver.output()
    training.check_jobs(1)
    training.check_end(training.start(), jobs=2, attempts=2, first=checkpoint)


def test_disk_full(training: Training) -> None:
    """The run directory and the folders around it are full."""
    with small_disc(training.project.path / "data") as disc:
        driver = training.start()
        ranks = training.stop_in_the_middle(driver)
        checkpoint = training.checkpoint()
        fill(disc / "ballast")
        training.go_on(ranks)
        assert driver.wait() == 1
        assert "disc" in driver.output().splitlines()[-1], driver.output()
        training.check_jobs(1)
        (disc / "ballast").unlink()
        again = training.start()
        if again.wait():  # the first driver could not write down that it had seen the job's end, so it is told anew
            assert "attached to again" in again.output()
            again = training.start()
        training.check_end(again, jobs=2, attempts=2, first=checkpoint)


def test_one_element_of_an_array_fails(training: Training) -> None:
    """Only the failed element is made again."""
    before = training.project.digests("rephrase")
    driver = training.start("rephrase")
    training.wait_for(lambda: bool(training.ranks("--shard=1")), "element 1", driver)
    training.ranks("--shard=1")[0].kill()
    assert driver.wait() == 0, driver.output()
    assert training.project.digests("rephrase") == before
    jobs = training.project.records("rephrase")[-1]["jobs"]["rephrase_documents"]
    folder = next(training.project.data(".runs", "rephrase").glob("*/jobs/rephrase_documents"))
    begun = {
        element: (folder / f"element-{element}" / "attempts.jsonl").read_text().count("begun") for element in range(3)
    }
    assert begun == {0: 1, 1: 2, 2: 1}, jobs
    training.check_jobs(3)  # the array, its element once more, and the one that joins their parts
