"""The asset checks: which ones an asset has, and how each is judged.

`great_expectations` is the verdict of the gate that judged a table before it was published, `plan` the state that `make
plan` gives the asset's stage. To add a check: declare it in `specs`, and give its result in `results`.
"""

from collections.abc import Iterator

import dagster as dg

from dags.lineage import gated
from dags.metadata import gate_report, verdict, verdict_metadata
from pipelines import graph

CHECK = "great_expectations"
PLAN = "plan"
ABOUT = {
    CHECK: "The table's gate, judged before it was published.",
    PLAN: "Passed if `make plan` says fresh; else its state and the reason: a warning, or an error where it failed.",
}
Entry = dict[str, str | None]
"""A stage's entry in the plan: state, reason and the name of its last good run's record."""


def specs(datasets: tuple[str, ...]) -> Iterator[dg.AssetCheckSpec]:
    """Yield the checks that the assets of a stage have."""
    for name in gated(datasets):
        yield dg.AssetCheckSpec(CHECK, asset=name, description=ABOUT[CHECK])
    for name in datasets:
        yield dg.AssetCheckSpec(PLAN, asset=name, description=ABOUT[PLAN])


def results(profile: str, dataset: str, entry: Entry) -> list[dg.AssetCheckResult]:
    """Return the results of all checks of an asset that was just published."""
    return [*(gate_check(profile, name) for name in gated((dataset,))), plan_check(dataset, entry)]


def gate_check(profile: str, dataset: str) -> dg.AssetCheckResult:
    """Return the verdict on a published table; judge it again if the latest report does not show that it passed."""
    report = verdict(profile, dataset)
    if report is None or not report["passed"]:
        from pipelines import gates

        gates.check(dataset, graph.dataset(profile, dataset).load(), gate_report(profile, dataset).parent)
        report = verdict(profile, dataset)
    assert report is not None
    return dg.AssetCheckResult(
        passed=report["passed"], asset_key=dataset, check_name=CHECK, metadata=verdict_metadata(profile, report)
    )


def refusals(stage: str, profile: str, since: float) -> Iterator[dg.AssetCheckResult]:
    """Yield the verdicts of the gates that refused a table of the stage after `since`."""
    for dataset in gated(graph.stage_graph(stage).outputs):
        path = gate_report(profile, dataset)
        report = verdict(profile, dataset)
        if report and not report["passed"] and path.stat().st_mtime >= since:
            yield dg.AssetCheckResult(
                passed=False, asset_key=dataset, check_name=CHECK, metadata=verdict_metadata(profile, report)
            )


def plan_check(dataset: str, entry: Entry) -> dg.AssetCheckResult:
    """Return the plan's check of one asset: passed if it is fresh."""
    failed = entry["state"] == "failed"
    return dg.AssetCheckResult(
        passed=entry["state"] == "fresh", asset_key=dataset, check_name=PLAN,
        description=f"{entry['state']}: {entry['reason']}",
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        metadata={name: value or "none" for name, value in entry.items()},
    )  # fmt: skip


def latest_check(
    instance: dg.DagsterInstance, dataset: str, check: str, since_made: bool = False
) -> dg.AssetCheckEvaluation | None:
    """Return an asset's latest evaluation of a check.

    None if it was never evaluated, or with `since_made` not since the asset was last made.
    """
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(dg.AssetKey(dataset), check))
    if record is None or record.event is None:
        return None
    materialization = instance.get_latest_materialization_event(dg.AssetKey(dataset)) if since_made else None
    if materialization and materialization.timestamp > record.event.timestamp:
        return None
    event = record.event.dagster_event
    data = event.event_specific_data if event else None
    return data if isinstance(data, dg.AssetCheckEvaluation) else None
