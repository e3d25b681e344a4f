"""A job runs the code that its key was made from, whatever happens to the working tree until it does.

Each test ends in the undisturbed run's weights, history and final state, under a record that says so and is true.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.harness import Cluster
from tests.cluster.training import NODE, STAGE, Training
from tests.project import PROFILE

pytestmark = pytest.mark.slow
MUON = "engine/optim/muon.py"
SCALE = "lr * orthogonalise.scale(n, m)"


@pytest.fixture(name="tree")
def fixture_tree(training: Training) -> Iterator[Training]:
    """Return the stage on its cluster; edits and checkouts are undone afterwards."""
    head = git(training, "rev-parse", "--abbrev-ref", "HEAD")
    yield training
    git(training, "checkout", "-qf", head)
    git(training, "checkout", "-q", "--", MUON)


def git(training: Training, *words: str) -> str:
    return training.project.run("git", "-c", "user.name=t", "-c", "user.email=t@t", *words).stdout.strip()


def double(training: Training) -> None:
    """Double the updates of Muon, which leads to other weights."""
    path = training.project.path / MUON
    text = path.read_text()
    assert SCALE in text
    path.write_text(text.replace(SCALE, f"2.0 * {SCALE}"))


def check_record(training: Training, record: dict[str, Any], commit: str) -> None:
    """The record is of the commit and key that the run began with, and the edit makes the next run stale."""
    assert (record["outcome"], record["commit"], record["key"]) == (
        "success",
        commit,
        training.project.records(STAGE)[0]["key"],
    )
    plan = " ".join(training.project.run("python", "-m", "pipelines.commands.plan", "--env", PROFILE).stdout.split())
    assert "definition engine.optim.muon." in plan


def test_an_edit_while_the_job_waits_and_a_checkout_before_it_is_requeued(tree: Training, cluster: Cluster) -> None:
    commit = git(tree, "rev-parse", "HEAD")
    cluster.scontrol("update", "partitionname=h800", "state=down")
    driver = tree.start()
    tree.wait_for(lambda: "submitted; run directory" in driver.output(), "the submission", driver)
    double(tree)
    cluster.scontrol("update", "partitionname=h800", "state=up")
    ranks = tree.stop_in_the_middle(driver)
    checkpoint = tree.checkpoint()
    git(tree, "checkout", "-qb", "doubled")
    git(tree, "commit", "-qam", "Double it")
    cluster.scontrol("requeue", tree.job)
    tree.wait_for_attempt(1, driver)
    tree.go_on(ranks)
    check_record(tree, tree.check_end(driver, jobs=1, attempts=2, first=checkpoint), commit)


def test_an_edit_right_after_the_driver_has_printed_its_key(tree: Training) -> None:
    """Two processes beside the driver begin a moment after the edit."""
    commit = git(tree, "rev-parse", "HEAD")
    path = tree.project.path / f"conf/{PROFILE}/compute.yml"
    path.write_text(yaml.safe_dump({"train": {"launcher": "local", "processes": 2}}))
    driver = tree.start()
    tree.wait_for(lambda: "  key " in driver.output(), "the key", driver)
    double(tree)
    assert driver.wait() == 0, driver.output()
    assert tree.end() == tree.undisturbed
    check_record(tree, tree.project.records(STAGE)[-1], commit)


def test_a_job_whose_environment_is_another_is_refused(tree: Training, tmp_path: Path) -> None:
    """A container with another torch has this effect: the job refuses before it trains, and nothing is published."""
    (tmp_path / "torch-0.1.dist-info").mkdir()
    (tmp_path / "torch-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    tree.use(environment=[f"export PYTHONPATH={tmp_path}"])
    driver = tree.start()
    assert driver.wait() == 1
    line = driver.output().splitlines()[-1]
    assert line.startswith("error: stage pretrain is no longer what its key says: distribution torch: ")
    assert "→ 0.1" in line
    assert not tree.project.data(STAGE).exists()
    assert tree.project.records(STAGE)[-1]["jobs"][NODE]["attempts"] == 1
