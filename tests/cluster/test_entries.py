"""Every way to start a stage submits the same job: `make repro` and Dagster's button reach a real Slurm too."""

from pathlib import Path

import dagster as dg
import pytest

from tests.cluster.training import NODE, STAGE, Training
from tests.project import LEDGER, PROFILE

pytestmark = pytest.mark.slow


@pytest.fixture
def training(training: Training) -> Training:
    """Return the training as if DVC had never run the stage either."""
    (training.project.path / LEDGER).with_suffix(".lock").unlink(missing_ok=True)
    return training


def test_through_dvc(training: Training) -> None:
    words = ("python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--stage", STAGE)
    driver = training.start_command(words, {})
    training.check_end(driver)
    for line in ("submitted; run directory", "running on h800-[0-1]", "pretrain: 40/40", "succeeded"):
        assert line in driver.output()
    assert training.start_command(words, {}).wait() == 0
    training.check_jobs(1)


def test_through_dagster(training: Training) -> None:
    home = training.project.path / ".dagster" / PROFILE
    environment = {"DAGSTER_HOME": str(home), "K2_PROFILE": PROFILE}
    assert training.start_command(("python", "-m", "dags.report"), environment).wait() == 0
    words = ("dagster", "job", "execute", "-m", "dags.definitions", "-j", f"only_{STAGE}")
    record = training.check_end(training.start_command(words, environment))
    shown = last_materialisation(home, "base_checkpoint").metadata
    (job,) = record["jobs"].values()
    assert shown[f"slurm/{NODE}/job"].value == str(job["id"])
    assert shown[f"slurm/{NODE}/attempts"].value == 1
    assert shown[f"slurm/{NODE}/nodes"].value == "h800-0, h800-1"
    assert "pretrain: 40/40" in str(shown[f"slurm/{NODE}/log_end"].value)
    assert shown["run_record"].value == record["path"].name


def last_materialisation(home: Path, asset: str) -> dg.AssetMaterialization:
    """Return the latest materialisation that Dagster shows on an asset's page."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event
    assert event.asset_materialization
    return event.asset_materialization
