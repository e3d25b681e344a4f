"""One multi-asset for each stage, derived from kedro.yml, pipelines and catalog; it runs whole or not at all."""

import inspect
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dags import checks, report
from dags.attending import attended_here
from dags.execute import cause, run_logged, stage_command, track_command
from dags.lineage import dependencies
from dags.metadata import materialisation
from dags.plan import plan
from engine.identity.records import good_records, read_records
from pipelines import graph
from pipelines.stages_file import StageSpec

KINDS = {"TableDataset": {"parquet", "polars"}, "DirectoryDataset": {"files"}, "MetricsDataset": {"json"}}

GPU = "gpu"
"""The concurrency pool of the stages of compute class `train`: by default one at a time, over all runs."""


class StageConfig(dg.Config):
    """The options of a stage's materialisation."""

    force: bool = False


def stage_assets(name: str, spec: StageSpec, profile: str, code_version: str | None) -> dg.AssetsDefinition:
    """Return the assets of one stage."""
    outline = graph.stage_graph(name)

    @dg.multi_asset(
        name=name,
        specs=[_asset(name, spec, dataset, code_version) for dataset in outline.outputs],
        check_specs=list(checks.specs(outline.outputs)),
        can_subset=False,
        pool=GPU if spec.compute == "train" else None,
        op_tags={"stage": name, "compute": spec.compute, "profile": profile},
        description=f"`make repro STAGE={name} PROFILE={profile}`",
    )  # fmt: skip
    def stage(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        yield from materialise(context, name, profile, config.force)

    return stage


def materialise(context: Any, stage: str, profile: str, force: bool) -> Iterator[Any]:
    """Bring a stage up to date and report its outputs.

    Raises:
        dagster.Failure: the stage failed; the description gives the reason.

    """
    report.report_all(context.instance, profile)  # so that the inputs' versions are those on disc
    with attended_here(profile, stage):
        yield from _run_and_report(context, stage, profile, force)


def _run_and_report(context: Any, stage: str, profile: str, force: bool) -> Iterator[Any]:
    start = time.time()
    command = stage_command(stage, profile, force)
    context.log.info(" ".join(command[2:]))
    status, tail = run_logged(command, context.log.info)
    if status:
        yield from checks.refusals(stage, profile, start)
        now = plan(profile)
        yield from (checks.plan_check(name, now[stage]) for name in graph.stage_graph(stage).outputs)
        reason = _recorded_error(profile, stage, start) or cause(tail)
        raise dg.Failure(f"stage {stage} failed: {reason}", metadata={"output": dg.MetadataValue.md(_code(tail))})
    run_logged(track_command(profile), context.log.info)  # an unreachable server means a warning, as in `make repro`
    now = plan(profile)
    good = good_records(graph.runs_folder(profile, stage))
    for dataset in graph.stage_graph(stage).outputs:
        digest = graph.digest_of(profile, dataset)
        makers = [run for run in good if run["outputs"].get(dataset) == digest]
        yield dg.MaterializeResult(
            asset_key=dataset,
            metadata=materialisation(profile, dataset, makers[-1] if makers else None),
            data_version=dg.DataVersion(digest or "absent"),
            check_results=checks.results(profile, dataset, now[stage]),
        )


def _asset(stage: str, spec: StageSpec, dataset: str, code_version: str | None) -> dg.AssetSpec:
    entry = graph.catalog_entries(None)[dataset]
    node = next(node for node in graph.stage_graph(stage).pipeline.nodes if dataset in node.outputs)
    kind = str(entry["type"]).rpartition(".")[2]
    return dg.AssetSpec(
        key=dataset,
        deps=dependencies(stage, dataset),
        group_name=spec.group,
        owners=[f"team:{spec.group}"],
        kinds={*KINDS.get(kind, set()), *({"pytorch"} if dataset.endswith("_checkpoint") else set())},
        code_version=code_version,
        description=f"{inspect.getdoc(node.func) or node.name}\n\nStage `{stage}`, node `{node.name}`.",
        metadata={"stage": stage, "compute": spec.compute, "dataset": kind},
    )


def _recorded_error(profile: str, stage: str, since: float) -> str | None:
    """Return the error in the run record of this run; None if it ended before it could write one.

    The command's output ends in DVC's own sentence, which names the command that failed and not the reason.
    """
    records = read_records(graph.runs_folder(profile, stage))
    own = [record for record in records if record["path"].stat().st_mtime >= since and record.get("error")]
    return str(own[-1]["error"]) if own else None


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])
