"""Report runs made in a shell to Dagster, as materialisations from their run records.

    python -m dags.report

A record counts as reported once an event of each asset that it made has its name, whether this module, the
sensor or a run inside Dagster wrote that event; so reporting twice does nothing.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dags.attending import attended_by_dagster
from dags.checks import CHECK, latest_check
from dags.home import chosen_profile, dagster_home
from dags.lineage import dependencies, gated
from dags.metadata import materialisation, reported, verdict, verdict_metadata
from dags.versions import code_version
from engine.identity.records import ADOPTED, PULLED, RECALLED, good_records
from pipelines import graph
from pipelines.errors import report_errors
from pipelines.stages_file import load_stages_file

SHELL = {
    "success": "run in a shell",
    ADOPTED: "imported in a shell",
    RECALLED: "brought back in a shell",
    PULLED: "pulled by DVC, not run here,",
}
"""The outcome of a record → how its outputs came, other than by a run inside Dagster."""
Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def unreported(instance: dg.DagsterInstance, profile: str) -> Iterator[Event]:
    """Yield events for every good run that Dagster has not seen, oldest first, and for every table just refused."""
    fresh: list[dict[str, Any]] = []
    for stage in load_stages_file().stages:
        if attended_by_dagster(profile, stage):
            continue  # that run reports it
        records = good_records(graph.runs_folder(profile, stage))
        if records:
            known = reported(instance, graph.stage_graph(stage).outputs[-1])
            fresh += [record for record in records if record["path"].name not in known]
    for record in sorted(fresh, key=lambda record: str(record["finished"])):
        yield from _events(profile, record)
    yield from _refusals(instance, profile)


def report_all(instance: dg.DagsterInstance, profile: str) -> int:
    """Write the events of all unreported runs; return how many."""
    events = list(unreported(instance, profile))
    for event in events:
        instance.report_runless_asset_event(event)
    return len(events)


def shell_run_sensor(profile: str) -> dg.SensorDefinition:
    """Return the sensor that reports shell runs while the UI is open."""

    @dg.sensor(
        name="report_shell_runs",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports runs made in a shell as materialisations, from their run records.",
    )
    def report_shell_runs(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        events = list(unreported(context.instance, profile))
        return dg.SensorResult(asset_events=events) if events else dg.SkipReason("every run record is reported")

    return report_shell_runs


def _refusals(instance: dg.DagsterInstance, profile: str) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield failed checks for the tables whose latest gate report is a refusal that Dagster has not seen."""
    for stage in load_stages_file().stages:
        for dataset in gated(graph.stage_graph(stage).outputs):
            report = verdict(profile, dataset)
            if report and not report["passed"]:
                metadata = verdict_metadata(profile, report)
                if _latest_report(instance, dataset) != metadata["report"]:
                    yield dg.AssetCheckEvaluation(
                        asset_key=dg.AssetKey(dataset), check_name=CHECK, passed=False, metadata=metadata
                    )


def _latest_report(instance: dg.DagsterInstance, dataset: str) -> str | None:
    """Return the digest of the gate report that an asset's latest check evaluation was made from."""
    evaluation = latest_check(instance, dataset, CHECK)
    return str(evaluation.metadata["report"].value) if evaluation else None


def _events(profile: str, record: dict[str, Any]) -> Iterator[Event]:
    """Yield the events of one record; datasets that a later run has replaced are described by the record alone."""
    for dataset, digest in record["outputs"].items():
        current = graph.digest_of(profile, dataset) == digest
        metadata = materialisation(profile, dataset, record) if current else _remembered(dataset, record)
        yield dg.AssetMaterialization(
            asset_key=dataset,
            description=f"{SHELL[record['outcome']]} by {record['user']}",
            metadata=metadata,
            tags=_versions(dataset, digest, record),
        )
        report = verdict(profile, dataset) if current and gated((dataset,)) else None
        if report and report["passed"]:
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(dataset),
                check_name=CHECK,
                passed=True,
                metadata=verdict_metadata(profile, report),
            )


def _remembered(dataset: str, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "hash": record["outputs"][dataset],
        "seconds": float(record["seconds"]),
        "run_record": record["path"].name,
        "finished": str(record["finished"]),
    }


def _versions(dataset: str, digest: str, record: dict[str, Any]) -> dict[str, str]:
    """Return the tags by which Dagster distinguishes fresh from stale, as it would write them itself."""
    digests = {**record["parts"]["inputs"], **record["outputs"]}
    tags = {
        "dagster/code_version": code_version(
            record["parts"]["code"], record["parts"]["parameters"], record["parts"].get("sources")
        ),
        "dagster/data_version": digest,
        "dagster/data_version_is_user_provided": "true",
    }
    for name in dependencies(record["stage"], dataset):
        if name in digests:
            tags[f"dagster/input_data_version/{name}"] = digests[name]
            tags[f"dagster/input_event_pointer/{name}"] = "NULL"
    return tags


def main() -> None:
    """Report all runs of the profile."""
    argparse.ArgumentParser(description="Report runs made in a shell to Dagster (profile: K2_PROFILE).").parse_args()
    with report_errors():
        from dags.ui import prepare_home

        profile = chosen_profile()
        prepare_home(dagster_home(profile))
        os.environ["DAGSTER_HOME"] = str(dagster_home(profile))
        with dg.DagsterInstance.get() as instance:
            print(f"{report_all(instance, profile)} events reported to {dagster_home(profile)}")


if __name__ == "__main__":
    main()
