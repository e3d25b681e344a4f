"""Dagster's view of the graph, shown by `dagster dev -m dags.definitions` for the profile in K2_PROFILE.

All of it is derived from kedro.yml, pipelines and catalog. Loading imports no torch, no mlflow and
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

AT_ONCE = 4  # most stages of one run at the same time
NIGHT = "0 1 * * *"


def definitions(profile: str) -> dg.Definitions:
    """Return all assets, checks, jobs, sensors and the schedule of a profile."""
    versions = code_versions(profile, dagster_home(profile) / VERSIONS)
    stages = load_stages_file().stages
    whole = dg.define_asset_job("whole_graph", description=f"`make run PROFILE={profile}`")
    single = {name: stage_job(name, profile) for name in stages}
    return dg.Definitions(
        assets=[stage_assets(name, spec, profile, versions.get(name)) for name, spec in stages.items()],
        jobs=[whole, *single.values()],
        schedules=[nightly(whole)],
        sensors=[shell_run_sensor(profile), plan_sensor(profile), detached_job_sensor(profile, single)],
        executor=executor(profile),
    )


def stage_job(stage: str, profile: str) -> Any:
    """Return the job that brings one stage up to date; other selections (`sft_checkpoint*`) are made on the page."""
    assets = dg.AssetSelection.assets(*graph.stage_graph(stage).outputs)
    return dg.define_asset_job(f"only_{stage}", assets, description=f"`make repro STAGE={stage} PROFILE={profile}`")


def nightly(whole: Any) -> dg.ScheduleDefinition:
    """Return an example schedule, which runs stale stages at one in the morning; stopped until someone starts it."""
    return dg.ScheduleDefinition(
        name="nightly",
        job=whole,
        cron_schedule=NIGHT,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Brings the whole graph up to date every night; fresh stages are skipped in a second.",
    )


def executor(profile: str) -> dg.ExecutorDefinition:
    """Return the executor, which orders the stages of one run.

    On one machine they run one after another, since each uses all of it. With Slurm, stages that do not depend on each
    other run at the same time, since the local processes only wait.
    """
    launchers = {settings["launcher"] for settings in compute_classes(profile).values()}
    if "slurm" in launchers:
        return dg.multiprocess_executor.configured({"max_concurrent": AT_ONCE})
    return dg.in_process_executor


defs = definitions(chosen_profile())
