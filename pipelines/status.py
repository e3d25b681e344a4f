"""`make plan`: every stage as fresh, stale, missing or failed, with the first reason and how long it took last time.

A stage is fresh if the last good run of it had today's key and its outputs are the ones that run left. The key is
the same one that the stage itself makes, so the plan, DVC and the Dagster badges agree.

    python -m pipelines.status --env laptop
"""

import argparse
from dataclasses import dataclass
from typing import Any, Literal

from engine.identity.key import flatten, stage_key
from engine.identity.records import ADOPTED, GOOD, read_records
from pipelines import graph
from pipelines.code import stage_file
from pipelines.errors import report_errors
from pipelines.manifest import load_manifest

State = Literal["fresh", "stale", "missing", "failed"]
COLOURS = {"fresh": "green", "stale": "yellow", "missing": "white", "failed": "red"}


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands."""

    stage: str
    state: State
    reason: str
    key: str | None
    record: dict[str, Any] | None
    seconds: float | None


def stage_status(profile: str | None = None) -> dict[str, StageStatus]:
    """The state of every stage of a profile, in order."""
    found: dict[str, StageStatus] = {}
    for stage in load_manifest().stages:
        found[stage] = _status(stage, profile, found)
    return found


def _status(stage: str, profile: str | None, before: dict[str, StageStatus]) -> StageStatus:
    outline = graph.stage_graph(stage)
    runs = read_records(graph.data_folder(profile) / ".runs" / stage)
    good = [run for run in runs if run["outcome"] in GOOD]
    last = good[-1] if good else None
    parts = stage_file(stage, profile)
    inputs = {name: graph.digest_of(profile, name) for name in outline.inputs}
    whole = {name: digest for name, digest in inputs.items() if digest is not None}
    key = stage_key(**parts, inputs=whole) if len(whole) == len(inputs) else None
    state, reason = _judge(profile, outline, runs, last, key, {**parts, "inputs": inputs}, before)
    return StageStatus(stage, state, reason, key, last, float(last["seconds"]) if last else None)


def _judge(
    profile: str | None,
    outline: graph.StageGraph,
    runs: list[dict[str, Any]],
    last: dict[str, Any] | None,
    key: str | None,
    now: dict[str, Any],
    before: dict[str, StageStatus],
) -> tuple[State, str]:
    if runs and runs[-1]["outcome"] == "failed":
        return "failed", str(runs[-1]["error"])
    if last is None:
        return "missing", "never run"
    waiting = [
        name for name in dict.fromkeys(graph.producer(name) for name in outline.inputs) if before[name].state != "fresh"
    ]
    if waiting:
        return "stale", f"its input stage {waiting[0]} is {before[waiting[0]].state}"
    for name, digest in last["outputs"].items():
        found = graph.digest_of(profile, name)
        if found is None:
            return "missing", f"{name} is not there"
        if found != digest:
            return "stale", f"{name} is not what the last run left"
    if key != last["key"]:
        return "stale", first_difference(last["parts"], now)
    if last["outcome"] == ADOPTED:
        return "fresh", f"adopted from {last['origin']['path']}"
    return "fresh", f"since {str(last['finished'])[:16].replace('T', ' ')}"


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first part of a stage key that changed, old → new: a parameter, an input, or a piece of code."""
    parameters = flatten(new["parameters"])
    for name in sorted({*old["parameters"], *parameters}):
        a, b = old["parameters"].get(name, "absent"), parameters.get(name, "absent")
        if a != b:
            return f"parameter {name}: {a} → {b}"
    for name, digest in new["inputs"].items():
        if old["inputs"].get(name) != digest:
            return f"input {name} changed"
    for kind, current in new["code"].items():
        then = old["code"].get(kind, {})
        for name in sorted({*then, *current}):
            if then.get(name) != current.get(name):
                how = "is new" if name not in then else "is gone" if name not in current else "changed"
                return f"{kind.rstrip('s')} {name} {how}"
    return "nothing that the record shows"


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="What would run, and why.")
    parser.add_argument("--env", default=None, help="profile")
    with report_errors():
        profile = load_manifest().profile(parser.parse_args().env)
        print_plan(profile)


def print_plan(profile: str) -> None:
    """One line a stage, and how long the stale ones took last time."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"plan of profile {profile}", title_justify="left")
    for column in ("stage", "state", "why", "last run"):
        table.add_column(column, overflow="fold")
    statuses = stage_status(profile).values()
    for status in statuses:
        took = f"{status.seconds:.0f} s" if status.seconds is not None else "-"
        table.add_row(status.stage, f"[{COLOURS[status.state]}]{status.state}[/]", status.reason, took)
    console = Console()
    console.print(table)
    due = [status for status in statuses if status.state != "fresh"]
    known = sum(status.seconds or 0 for status in due)
    unknown = sum(status.seconds is None for status in due)
    more = f" and {unknown} stages never timed" if unknown else ""
    console.print(
        f"{len(due)} of {len(statuses)} stages would run: about {known:.0f} s{more}." if due else "All is fresh."
    )


if __name__ == "__main__":
    main()
