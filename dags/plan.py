"""The state that `make plan` gives each stage, as an asset check `plan`: passed if fresh, else with the reason.

Dagster's own mark (Unsynced) shows whether an asset differs from its inputs as of when the definitions were loaded. The
plan knows more: that an ancestor is stale, an output was deleted, a run in a shell failed, or a file was edited a
moment ago. So each asset has both.

    python -m dags.plan    the plan of the profile in K2_PROFILE as JSON, in a process that has just read every file
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from dags.attending import attended_by_dagster, attended_by_driver
from dags.checks import PLAN, Entry, latest_check, plan_check
from dags.home import PROFILE_VARIABLE, chosen_profile
from dags.metadata import reported
from dags.versions import working_tree
from engine.artifacts.files import digest_bytes, files_below
from engine.identity.records import read_record
from pipelines import graph, sources
from pipelines.errors import report_errors
from pipelines.stages_file import ROOT, load_stages_file
from pipelines.status import stage_status

Plan = dict[str, Entry]
"""Stage → its entry in the plan."""


def plan(profile: str) -> Plan:
    """Return every stage's state, as `make plan` shows it."""
    return {
        stage: {
            "state": status.state,
            "reason": status.reason,
            "record": status.record["path"].name if status.record else None,
        }
        for stage, status in stage_status(profile).items()
    }


def changed(instance: dg.DagsterInstance, now: Plan) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the plan's check of each asset whose check in Dagster differs, or is missing although it was made.

    A check counts for the materialisation before it: Dagster shows none that is older than the latest one.
    """
    for stage, entry in now.items():
        for dataset in graph.stage_graph(stage).outputs:
            known = _known(instance, dataset)
            never = known is None and entry["record"] is None and entry["state"] == "missing"
            if not never and known != {name: value or "none" for name, value in entry.items()}:
                check = plan_check(dataset, entry)
                yield dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey(dataset), check_name=PLAN, passed=check.passed, severity=check.severity,
                    description=check.description, metadata=check.metadata,
                )  # fmt: skip


def plan_sensor(profile: str) -> dg.SensorDefinition:
    """Return the sensor that keeps the checks equal to the plan while the page is open."""

    @dg.sensor(
        name="report_plan",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Brings each asset's check `plan` to what `make plan` says, when a file that matters was touched.",
    )
    def report_plan(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        attended = [stage for stage in load_stages_file().stages if attended_by_dagster(profile, stage)]
        driven = [stage for stage in load_stages_file().stages if attended_by_driver(profile, stage)]
        state = digest_bytes(" ".join([touched(profile), *attended, "and", *driven]).encode())
        if state == context.cursor:
            return dg.SkipReason("no file that the plan depends on was touched")
        now = {
            stage: entry for stage, entry in _read(profile).items() if stage not in attended
        }  # the run inside Dagster reports these
        entries = {
            stage: entry for stage, entry in now.items() if _is_reported(context.instance, profile, stage, entry)
        }
        events = list(changed(context.instance, entries))
        return dg.SensorResult(asset_events=events, cursor=state if entries == now else f"{state}, in part")

    return report_plan


def _is_reported(instance: dg.DagsterInstance, profile: str, stage: str, entry: Entry) -> bool:
    """Return whether Dagster has the plan's run: reporting its materialisation later would outdate the check."""
    if entry["record"] is None:
        return True
    record = read_record(graph.runs_folder(profile, stage) / entry["record"])
    known = set(graph.stage_graph(stage).outputs)  # an old record may name outputs that the stage no longer has
    return all(entry["record"] in reported(instance, name) for name in record["outputs"] if name in known)


def touched(profile: str) -> str:
    """Return a digest of what the plan reads: code, configuration, data, run records, sizes and times of outputs."""
    stamps = [working_tree(), sources.touched(profile)]
    stamps += [path.name for path in sorted((graph.data_folder(profile) / ".runs").glob("*/*.json"))]
    for dataset in graph.catalog_entries(None):
        stamps += [f"{dataset} {stamp}" for stamp in _stamps(graph.tracked_path(profile, dataset))]
    return digest_bytes("\n".join(stamps).encode())


def _stamps(path: Path) -> Iterator[str]:
    """Yield name, size and time of what DVC tracks: an output's files, or its manifest if they are kept by hash."""
    for file in files_below(path) if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):  # replaced by a stage that publishes
            yield f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}"


def _read(profile: str) -> Plan:
    """Return the plan from a new process, since this one has read its configuration long ago."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dags.plan"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, PROFILE_VARIABLE: profile},
    )  # fmt: skip
    if process.returncode:
        raise dg.Failure(
            f"the plan of profile {profile} cannot be made: {process.stderr.strip().rpartition(chr(10))[2]}"
        )
    return dict(json.loads(process.stdout.splitlines()[-1]))


def _known(instance: dg.DagsterInstance, dataset: str) -> dict[str, Any] | None:
    """Return the plan entry in the check that the page shows of an asset."""
    evaluation = latest_check(instance, dataset, PLAN, since_made=True)
    if evaluation is None:
        return None
    return {
        name: evaluation.metadata[name].value for name in ("state", "reason", "record") if name in evaluation.metadata
    }


def main() -> None:
    """Print the plan of the profile in K2_PROFILE."""
    with report_errors():
        load_stages_file()
        print(json.dumps(plan(chosen_profile())))


if __name__ == "__main__":
    main()
