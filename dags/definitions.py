"""Dagster's view of the graph: what `dagster dev -m dags.definitions` shows, for the profile in K2_PROFILE.

Nothing is declared here that manifest, pipelines and catalog do not say. Loading imports no torch, no mlflow and
no Great Expectations.
"""

import dagster as dg

from dags.assets import stage_assets
from dags.home import chosen_profile, dagster_home
from dags.report import shell_run_sensor
from dags.versions import VERSIONS, code_versions
from pipelines.manifest import load_manifest


def definitions(profile: str) -> dg.Definitions:
    """All assets, checks and sensors of a profile, and the job that materialises everything."""
    versions = code_versions(profile, dagster_home(profile) / VERSIONS)
    stages = load_manifest().stages
    return dg.Definitions(
        assets=[stage_assets(spec, profile, versions.get(spec.name)) for spec in stages.values()],
        jobs=[dg.define_asset_job("whole_graph", description=f"`make run PROFILE={profile}`")],
        sensors=[shell_run_sensor(profile)],
        executor=dg.in_process_executor,  # one stage at a time: each is a process that wants the whole machine
    )


defs = definitions(chosen_profile())
