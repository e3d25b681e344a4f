"""The state of every stage: what `make plan`, `make why`, `make work` and Dagster's badges show.

A stage is fresh if a good run of it had today's key and its outputs are the ones that run left; recalled if they are
not there but kept, so that they come back without a run. The key is the same one that the stage itself makes, so the
plan, DVC and the Dagster badges agree. It has failed if its last run did, under today's key: another key has not been
tried. It is interrupted if it would run, and unfinished work of today's key goes on. Else it is stale, or missing where
there is nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal

from engine.identity.difference import differences
from engine.identity.key import stage_key
from engine.identity.library import Library
from engine.identity.records import ADOPTED, DETACHED, GOOD, INTERRUPTED, RECALLED, read_records
from engine.launch.lifetime import is_locked
from engine.remedy import command
from engine.training.position import position, sentences
from pipelines import graph
from pipelines.code_files import stage_file
from pipelines.configuration import check_configuration
from pipelines.estimate import estimate
from pipelines.ledger import read_ledger
from pipelines.stages_file import load_stages_file
from pipelines.standing import Standing, goes_on, harm_of, standing

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
    check_configuration(load_stages_file().profile(profile))
    read_ledger(load_stages_file().profile(profile))
    found: dict[str, StageStatus] = {}
    with graph.library() as modules:
        for stage in load_stages_file().stages:
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
