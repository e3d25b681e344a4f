"""`make plan`: every stage's state, with the first reason and how long it will take.

A stage is fresh if a good run of it had today's key and its outputs are the ones that run left; recalled if they are
not there but kept, so that they come back without a run. The key is the same one that the stage itself makes, so the
plan, DVC and the Dagster badges agree. It has failed if its last run did, under today's key: another key has not been
tried. It is interrupted if it would run, and unfinished work of today's key goes on. Else it is stale, or missing where
there is nothing. VERIFY=1 reads every byte of what is there.

    python -m pipelines.status --env laptop [--verify]
"""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from engine.identity.difference import differences
from engine.identity.key import stage_key
from engine.identity.library import Library
from engine.identity.records import ADOPTED, DETACHED, GOOD, INTERRUPTED, RECALLED, read_records
from engine.launch.lifetime import is_locked
from engine.remedy import command
from engine.training.position import position, sentences
from pipelines import graph
from pipelines.code import stage_file
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.estimate import estimate
from pipelines.ledger import read_ledger
from pipelines.manifest import load_manifest
from pipelines.standing import Standing, goes_on, harm_of, standing

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["fresh", "recalled", "stale", "missing", "interrupted", "failed"]
NO_RUN = ("fresh", "recalled")
"""States in which a stage's outputs are, or will be, what today's key makes, without a run."""
COLOURS: dict[State, str] = {
    **{"fresh": "green", "recalled": "blue", "stale": "yellow"},
    **{"missing": "white", "interrupted": "cyan", "failed": "red"},
}


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
    """What it will take by the good runs, scaled to today's parameters; 0 where outputs come back."""
    parts: dict[str, Any] | None = None
    """What today's key is made of."""


def stage_status(profile: str | None = None, *, read: bool = False) -> dict[str, StageStatus]:
    """Return the state of every stage of a profile, in order.

    Args:
        profile: whose; None for the default one.
        read: look at every byte of the outputs; else at sizes, and at the bytes of files touched since they were made.

    Raises:
        UserError: what a run would refuse before its first stage, or a damaged dvc.lock.

    """
    check_configuration(load_manifest().profile(profile))
    read_ledger(load_manifest().profile(profile))
    found: dict[str, StageStatus] = {}
    with graph.library() as modules:
        for stage in load_manifest().stages:
            found[stage] = _status(stage, profile, found, modules, read)
    return found


def _status(
    stage: str,
    profile: str | None,
    before: dict[str, StageStatus],
    modules: Library | None = None,
    read: bool = False,
) -> StageStatus:
    outline = graph.stage_graph(stage)
    runs = read_records(graph.runs_folder(profile, stage))
    good = [run for run in runs if run["outcome"] in GOOD]
    parts = stage_file(stage, profile, modules)
    inputs = {name: _expected(profile, name, before) for name in outline.inputs}
    whole = {name: digest for name, digest in inputs.items() if digest is not None}
    key = stage_key(**parts, inputs=whole) if len(whole) == len(inputs) else None
    now = {**parts, "inputs": inputs}
    made = standing(profile, key, good, read=read)
    if not made.is_done and key and goes_on(graph.work_folder(profile) / stage / key):
        made = Standing()
    last = made.record if made.is_done or made.comes_back else good[-1] if good else None
    state, reason = _judge(profile, outline, runs, last, made, key, now, before, read)
    ready = all(before[graph.producer(name)].state in NO_RUN for name in outline.inputs)
    if state in {"stale", "missing"} and ready and (paused := _paused(profile, stage, key, runs)):
        state, reason = "interrupted", paused
    seconds = float(last["seconds"]) if last else None
    takes = 0.0 if state == "recalled" else estimate(stage, good, parts["parameters"])
    return StageStatus(stage, state, reason, key, last, seconds, takes, now)


def _paused(profile: str | None, stage: str, key: str | None, runs: list[dict[str, Any]]) -> str:
    """Where the unfinished work of today's key stopped; "" if there is none, or it is being worked on."""
    place = graph.work_folder(profile) / stage
    last = runs[-1]["outcome"] if runs and runs[-1]["key"] == key else None
    if key is None or last == DETACHED or is_locked(place / "lock"):
        return ""
    if kept := position(place / key):
        past = f" ({sentences(kept.past)})" if kept.past else ""
        return f"stopped at {kept}{past}; the same command goes on"
    return str(runs[-1]["error"]) if last == INTERRUPTED else ""


def _expected(profile: str | None, name: str, before: dict[str, StageStatus]) -> str | None:
    """The digest that an input has now, or will have when its stage's outputs are back; None if it is not there."""
    made = before[graph.producer(name)]
    if made.state == "recalled" and made.record:
        return str(made.record["outputs"][name])
    return graph.digest_of(profile, name)


def _judge(
    profile: str | None,
    outline: graph.StageGraph,
    runs: list[dict[str, Any]],
    last: dict[str, Any] | None,
    made: Standing,
    key: str | None,
    now: dict[str, Any],
    before: dict[str, StageStatus],
    read: bool,
) -> tuple[State, str]:
    if runs and runs[-1]["outcome"] == "failed" and runs[-1]["key"] == key:
        return "failed", str(runs[-1]["error"])
    if last is None:
        return "missing", "never run"
    producers = dict.fromkeys(graph.producer(name) for name in outline.inputs)
    waiting = [name for name in producers if before[name].state not in NO_RUN]
    if waiting:
        return "stale", f"its input stage {waiting[0]} is {before[waiting[0]].state}"
    if made.comes_back:
        return "recalled", f"comes back from {made.then}, no run: {made.harm}{_warning(last)}"
    if not made.is_done and (harm := harm_of(profile, last, read=read)):
        return ("missing" if harm.endswith("is not there") else "stale"), harm
    if key != last["key"]:
        changes = differences(last["parts"], now)
        why = command("why", profile, STAGE=outline.name)
        more = f", and {len(changes) - 1} more: {why}" if len(changes) > 1 else ""
        return "stale", f"{changes[0]}{more}" if changes else "nothing that the record shows"
    if last["outcome"] == ADOPTED:
        return "fresh", f"adopted from {last['origin']['path']}"
    back = f", brought back from {last['origin']['record']}" if last["outcome"] == RECALLED else ""
    return "fresh", f"since {str(last['finished'])[:16].replace('T', ' ')}{back}{_warning(last)}"


def _warning(record: dict[str, Any]) -> str:
    """What must be said of an output that a run from scratch would not make: its training's past."""
    return f", {record['warning']}" if "warning" in record else ""


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description="What would run, and why.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--verify", action="store_true", help="read every byte of what is there")
    asked = parser.parse_args()
    with report_errors():
        print_plan(load_manifest().profile(asked.env), read=asked.verify)


def print_plan(profile: str, *, read: bool = False) -> None:
    """Print one line a stage, and how long those that would run will take."""
    from rich.table import Table

    table = Table(title=f"plan of profile {profile}", title_justify="left")
    for column in ("stage", "state", "why"):
        table.add_column(column, overflow="fold")
    table.add_column("takes", justify="right", no_wrap=True)
    statuses = list(stage_status(profile, read=read).values())
    for status in statuses:
        colour = COLOURS[status.state]
        takes = "no run" if status.state == "recalled" else duration(status.estimate)
        table.add_row(status.stage, f"[{colour}]{status.state}[/]", escape(status.reason), takes)
    console = screen()
    console.print(table)
    console.print(total(statuses), soft_wrap=True)


def total(statuses: list[StageStatus]) -> str:
    """Say how many stages would run, how long by what past runs took, and how many come back without."""
    due = [status for status in statuses if status.state not in NO_RUN]
    back = sum(status.state == "recalled" for status in statuses)
    come = f"{back} {'stage comes' if back == 1 else 'stages come'} back without a run" if back else ""
    if not due:
        return f"Nothing would run: {come}." if come else "All is fresh."
    known = [status.estimate for status in due if status.estimate is not None]
    unknown = [status.stage for status in due if status.estimate is None]
    parts = [f"about {duration(sum(known))}"] if known else []
    never = f"{len(unknown)} stages" if len(unknown) > 3 else ", ".join(unknown)
    parts += [f"unknown for {never}, never timed"] if unknown else []
    also = f" {come}." if come else ""
    return f"{len(due)} of {len(statuses)} stages would run: {'; '.join(parts)}.{also}"


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
