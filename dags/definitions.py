"""Dagster's view of the graph: what `dagster dev -m dags.definitions` shows, for the profile in K2_PROFILE.

Nothing is declared here that kedro.yml, pipelines and catalog do not say. Loading imports no torch, no mlflow and
no Great Expectations.
"""

from typing import Any

import dagster as dg

from dags.assets import stage_assets
from dags.detached import detached_job_sensor
from dags.home import chosen_profile, dagster_home
from dags.plan import plan_sensor
from dags.report import shell_run_sensor
from dags.versions import VERSIONS, code_versions
from pipelines import graph
from pipelines.configuration import compute_classes
from pipelines.stages_file import load_stages_file

AT_ONCE = 4  # stages of one run
NIGHT = "0 1 * * *"


def definitions(profile: str) -> dg.Definitions:
    """All assets, checks, jobs, sensors and the schedule of a profile."""
    versions = code_versions(profile, dagster_home(profile) / VERSIONS)
    stages = load_stages_file().stages
    whole = dg.define_asset_job("whole_graph", description=f"`make run PROFILE={profile}`")
    single = {name: stage_job(name, profile) for name in stages}
    return dg.Definitions(
        assets=[stage_assets(spec, profile, versions.get(spec.name)) for spec in stages.values()],
        jobs=[whole, *single.values()],
        schedules=[nightly(whole)],
        sensors=[shell_run_sensor(profile), plan_sensor(profile), detached_job_sensor(profile, single)],
        executor=executor(profile),
    )


def stage_job(stage: str, profile: str) -> Any:
    """The job that brings one stage up to date; further selections (`sft_checkpoint*`) are made on the page."""
    assets = dg.AssetSelection.assets(*graph.stage_graph(stage).outputs)
    return dg.define_asset_job(f"only_{stage}", assets, description=f"`make repro STAGE={stage} PROFILE={profile}`")


def nightly(whole: Any) -> dg.ScheduleDefinition:
    """An example: whatever is stale at one in the morning is made by breakfast. Stopped until someone starts it."""
    return dg.ScheduleDefinition(
        name="nightly",
        job=whole,
        cron_schedule=NIGHT,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Brings the whole graph up to date every night; fresh stages are skipped in a second.",
    )


def executor(profile: str) -> dg.ExecutorDefinition:
    """How the stages of one run follow each other.

    On one machine one after another: each is a process that wants all of it. Where Slurm has the nodes, stages that
    do not hang on each other run at the same time, for here they only wait.
    """
    launchers = {settings["launcher"] for settings in compute_classes(profile).values()}
    if "slurm" in launchers:
        return dg.multiprocess_executor.configured({"max_concurrent": AT_ONCE})
    return dg.in_process_executor


defs = definitions(chosen_profile())
