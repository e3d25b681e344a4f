"""The state of every stage: what `make plan`, `make why`, `make work` and Dagster's badges show.

A stage is fresh if a good run of it had today's key and its outputs are the ones that this run left; recalled if they
are missing but kept, so that they come back without a run. The key is the one that the stage itself makes, so the plan,
DVC and the Dagster badges agree. A stage has failed if its last run failed under today's key, and is interrupted if it
would resume unfinished work of today's key. Otherwise it is stale, or missing if it has no outputs.
"""

from dataclasses import dataclass
from typing import Any, Literal

from engine.identity.difference import differences
from engine.identity.key import stage_key
from engine.identity.library import Library
from engine.identity.records import ADOPTED, DETACHED, GOOD, INTERRUPTED, PULLED, RECALLED, read_records
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
    """The state of one stage, with its reason and its last good run."""

    stage: str
    state: State
    reason: str
    key: str | None
    record: dict[str, Any] | None
    seconds: float | None
    """The time that the last good run took, in seconds."""
    estimate: float | None = None
    """The time that the stage will take, in seconds, by its good runs; 0 where its outputs are recalled."""
    parts: dict[str, Any] | None = None
    """The parts of today's key."""


def stage_status(profile: str | None = None, *, read: bool = False) -> dict[str, StageStatus]:
    """Return the state of every stage of a profile, in order.

    Args:
        profile: the profile's name; None for the default one.
        read: check every byte of the outputs; else sizes, and the bytes of files touched since they were made.

    Raises:
        UserError: a run would refuse the configuration before its first stage, or dvc.lock is damaged.

    """
    check_configuration(load_stages_file().profile(profile))
    read_ledger(load_stages_file().profile(profile))
    status: dict[str, StageStatus] = {}
    with graph.library() as modules:
        for stage in load_stages_file().stages:
            status[stage] = _status(stage, profile, status, modules, read)
    return status


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
    present = {name: digest for name, digest in inputs.items() if digest is not None}
    key = stage_key(**parts, inputs=present) if len(present) == len(inputs) else None
    now = {**parts, "inputs": inputs}
    known = standing(profile, key, good, read=read)
    if not known.is_done and key and goes_on(graph.work_folder(profile) / stage / key):
        known = Standing()
    last = known.record if known.is_done or known.comes_back else good[-1] if good else None
    state, reason = _judge(profile, outline, runs, last, known, key, now, before, read)
    ready = all(before[graph.producer(name)].state in NO_RUN for name in outline.inputs)
    if state in {"stale", "missing"} and ready and (paused := _paused(profile, stage, key, runs)):
        state, reason = "interrupted", paused
    seconds = float(last["seconds"]) if last else None
    duration = 0.0 if state == "recalled" else estimate(stage, good, parts["parameters"])
    return StageStatus(stage, state, reason, key, last, seconds, duration, now)


def _paused(profile: str | None, stage: str, key: str | None, runs: list[dict[str, Any]]) -> str:
    """Return where the unfinished work of today's key stopped; "" if there is none, or a process works on it."""
    place = graph.work_folder(profile) / stage
    last = runs[-1]["outcome"] if runs and runs[-1]["key"] == key else None
    if key is None or last == DETACHED or is_locked(place / "lock"):
        return ""
    if reached := position(place / key):
        past = f" ({sentences(reached.past)})" if reached.past else ""
        return f"stopped at {reached}{past}; the same command goes on"
    return str(runs[-1]["error"]) if last == INTERRUPTED else ""


def _expected(profile: str | None, name: str, before: dict[str, StageStatus]) -> str | None:
    """Return the digest that an input has now, or will have once its stage is recalled; None if it is missing."""
    status = before[graph.producer(name)]
    if status.state == "recalled" and status.record:
        return str(status.record["outputs"][name])
    return graph.digest_of(profile, name)


def _judge(
    profile: str | None,
    outline: graph.StageGraph,
    runs: list[dict[str, Any]],
    last: dict[str, Any] | None,
    known: Standing,
    key: str | None,
    now: dict[str, Any],
    before: dict[str, StageStatus],
    read: bool,
) -> tuple[State, str]:
    if runs and runs[-1]["outcome"] == "failed" and runs[-1]["key"] == key:
        return "failed", str(runs[-1]["error"])
    if last is None:
        pulled = all(graph.digest_of(profile, name) for name in outline.outputs)
        repro = command("repro", load_stages_file().profile(profile))
        unrecorded = f"its outputs are here, no run record is: `{repro}` writes one where dvc.lock agrees with them"
        return "missing", unrecorded if pulled else "never run"
    producers = dict.fromkeys(graph.producer(name) for name in outline.inputs)
    unready = [name for name in producers if before[name].state not in NO_RUN]
    if unready:
        return "stale", f"its input stage {unready[0]} is {before[unready[0]].state}"
    if known.comes_back:
        return "recalled", f"comes back from {known.then}, no run: {known.harm}{_warning(last)}"
    if not known.is_done and (harm := harm_of(profile, last, read=read)):
        return ("missing" if harm.endswith("is not there") else "stale"), harm
    if key != last["key"]:
        changes = differences(last["parts"], now)
        why = command("why", profile, STAGE=outline.name)
        more = f", and {len(changes) - 1} more: {why}" if len(changes) > 1 else ""
        return "stale", f"{changes[0]}{more}" if changes else "no difference that the run record shows"
    if last["outcome"] == ADOPTED:
        return "fresh", f"adopted from {last['origin']['path']}"
    if last["outcome"] == PULLED:
        return "fresh", f"since {known.then}, pulled with {last['origin']['pulled']}, not run here"
    back = f", brought back from {last['origin']['record']}" if last["outcome"] == RECALLED else ""
    return "fresh", f"since {str(last['finished'])[:16].replace('T', ' ')}{back}{_warning(last)}"


def _warning(record: dict[str, Any]) -> str:
    """Return the warning about outputs that a run from scratch would not make: their training's past."""
    return f", {record['warning']}" if "warning" in record else ""
