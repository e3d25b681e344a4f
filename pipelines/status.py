"""`make plan`: each stage as fresh, stale, missing, interrupted or failed, with the first reason and how long it takes.

A stage is fresh if a good run of it had today's key and its outputs are the ones that run left. The key is the same
one that the stage itself makes, so the plan, DVC and the Dagster badges agree. It has failed if its last run did, under
today's key: another key has not been tried. It is interrupted if it would run, and unfinished work of today's key goes
on.

    python -m pipelines.status --env laptop
"""

import argparse
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from engine.identity.difference import differences
from engine.identity.key import stage_key
from engine.identity.library import Library
from engine.identity.records import ADOPTED, DETACHED, GOOD, INTERRUPTED, RECALLED, read_records
from engine.launch.lifetime import is_locked
from engine.remedy import command
from engine.training.position import position
from pipelines import graph
from pipelines.code import stage_file
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.ledger import read_ledger
from pipelines.manifest import load_manifest

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["fresh", "stale", "missing", "interrupted", "failed"]
COLOURS = {"fresh": "green", "stale": "yellow", "missing": "white", "interrupted": "cyan", "failed": "red"}


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands."""

    stage: str
    state: State
    reason: str
    key: str | None
    record: dict[str, Any] | None
    seconds: float | None
    """What the last good run took."""
    estimate: float | None = None
    """The median of what good runs took."""
    parts: dict[str, Any] | None = None
    """What today's key is made of."""


def stage_status(profile: str | None = None) -> dict[str, StageStatus]:
    """The state of every stage of a profile, in order.

    Raises:
        UserError: what a run would refuse before its first stage, or a damaged dvc.lock.

    """
    check_configuration(load_manifest().profile(profile))
    read_ledger(load_manifest().profile(profile))
    found: dict[str, StageStatus] = {}
    with graph.library() as modules:
        for stage in load_manifest().stages:
            found[stage] = _status(stage, profile, found, modules)
    return found


def _status(
    stage: str, profile: str | None, before: dict[str, StageStatus], modules: Library | None = None
) -> StageStatus:
    outline = graph.stage_graph(stage)
    runs = read_records(graph.runs_folder(profile, stage))
    good = [run for run in runs if run["outcome"] in GOOD]
    parts = stage_file(stage, profile, modules)
    inputs = {name: graph.digest_of(profile, name) for name in outline.inputs}
    whole = {name: digest for name, digest in inputs.items() if digest is not None}
    key = stage_key(**parts, inputs=whole) if len(whole) == len(inputs) else None
    now = {**parts, "inputs": inputs}
    last = _to_compare_with(good, key, profile)
    state, reason = _judge(profile, outline, runs, last, key, now, before)
    inputs_fresh = all(before[graph.producer(name)].state == "fresh" for name in outline.inputs)
    if state in {"stale", "missing"} and inputs_fresh and (paused := _paused(profile, stage, key, runs)):
        state, reason = "interrupted", paused
    seconds = float(last["seconds"]) if last else None
    return StageStatus(stage, state, reason, key, last, seconds, estimate(good), now)


def _paused(profile: str | None, stage: str, key: str | None, runs: list[dict[str, Any]]) -> str:
    """Where the unfinished work of today's key stopped; "" if there is none, or it is being worked on."""
    place = graph.work_folder(profile) / stage
    last = runs[-1]["outcome"] if runs and runs[-1]["key"] == key else None
    if key is None or last == DETACHED or is_locked(place / "lock"):
        return ""
    if kept := position(place / key):
        return f"stopped at {kept}; the same command goes on"
    return str(runs[-1]["error"]) if last == INTERRUPTED else ""


def _to_compare_with(good: list[dict[str, Any]], key: str | None, profile: str | None) -> dict[str, Any] | None:
    """The good run that made what is there under today's key (`git` and `dvc checkout` bring older ones back).

    Where none did, the last good run; None if there was none.
    """
    made_this = [run for run in good if run["key"] == key and graph.is_published(profile, run["outputs"])]
    return (made_this or good)[-1] if good else None


def estimate(good: list[dict[str, Any]]) -> float | None:
    """How long a stage will take: the median of its good runs; None if it never ran."""
    # outputs that were adopted or came back took no time of the stage's own
    took = [float(run["seconds"]) for run in good if run["outcome"] not in {ADOPTED, RECALLED}]
    return median(took) if took else None


def _judge(
    profile: str | None,
    outline: graph.StageGraph,
    runs: list[dict[str, Any]],
    last: dict[str, Any] | None,
    key: str | None,
    now: dict[str, Any],
    before: dict[str, StageStatus],
) -> tuple[State, str]:
    if runs and runs[-1]["outcome"] == "failed" and runs[-1]["key"] == key:
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
        changes = differences(last["parts"], now)
        why = command("why", profile, STAGE=outline.name)
        more = f", and {len(changes) - 1} more: {why}" if len(changes) > 1 else ""
        return "stale", f"{changes[0]}{more}" if changes else "nothing that the record shows"
    if last["outcome"] == ADOPTED:
        return "fresh", f"adopted from {last['origin']['path']}"
    back = f", brought back from {last['origin']['record']}" if last["outcome"] == RECALLED else ""
    return "fresh", f"since {str(last['finished'])[:16].replace('T', ' ')}{back}"


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="What would run, and why.")
    parser.add_argument("--env", default=None, help="profile")
    with report_errors():
        profile = load_manifest().profile(parser.parse_args().env)
        print_plan(profile)


def print_plan(profile: str) -> None:
    """One line a stage, and how long those that are not fresh will take."""
    from rich.table import Table

    table = Table(title=f"plan of profile {profile}", title_justify="left")
    for column in ("stage", "state", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("takes", justify="right", no_wrap=True)
    statuses = list(stage_status(profile).values())
    for status in statuses:
        colour = COLOURS[status.state]
        table.add_row(status.stage, f"[{colour}]{status.state}[/]", escape(status.reason), duration(status.estimate))
    console = screen()
    console.print(table)
    console.print(total([status for status in statuses if status.state != "fresh"], len(statuses)), soft_wrap=True)


def total(due: list[StageStatus], of: int) -> str:
    """How many stages would run, and how long by what past runs took."""
    if not due:
        return "All is fresh."
    known = [status.estimate for status in due if status.estimate is not None]
    unknown = [status.stage for status in due if status.estimate is None]
    parts = [f"about {duration(sum(known))}"] if known else []
    never = f"{len(unknown)} stages" if len(unknown) > 3 else ", ".join(unknown)
    parts += [f"unknown for {never}, never timed"] if unknown else []
    return f"{len(due)} of {of} stages would run: {'; '.join(parts)}."


def duration(seconds: float | None) -> str:
    """Seconds for people: 8 s, 3 min 20 s, 2 h 05 min; ? where nobody knows."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def screen() -> "Console":
    """The terminal, at most 100 columns wide."""
    from rich.console import Console

    return Console(width=min(100, Console().width), highlight=False)


if __name__ == "__main__":
    main()
