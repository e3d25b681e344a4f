"""Outputs are published under a key only if the code, the environment and the inputs are still those of that key.

All processes of a run import from the snapshot that its key was made from (engine/identity/snapshot). This module
checks, where a node runs, before its outputs are handed over or moved into place, that they did, and that nothing else
in the key has changed meanwhile. A record is true, or it is not written.
"""

from typing import Any

from engine.errors import UserError
from engine.identity import snapshot
from engine.identity.difference import differences
from engine.identity.fingerprint import installed
from engine.remedy import command
from pipelines import graph
from pipelines.sources import stage_sources
from pipelines.stages_file import CODE

Parts = dict[str, Any]


def check(profile: str, stage: str, parts: Parts) -> None:
    """Refuse this process's outputs where code, distributions, inputs or sources differ from the key's parts."""
    check_run(profile, stage, parts)
    check_read(profile, stage, parts)


def check_run(profile: str, stage: str, parts: Parts) -> None:
    """Refuse to go on where this process's code, distributions or inputs differ from the key's parts.

    Raises UserError, which says what differs.
    """
    try:
        snapshot.check(CODE)
    except UserError as error:
        raise UserError(_refused(profile, stage, str(error))) from error
    code = {**parts["code"], "distributions": installed(parts["code"]["distributions"])}
    _compare(profile, stage, parts, {**parts, "code": code, "inputs": _inputs(profile, parts)})


def check_read(profile: str, stage: str, parts: Parts) -> None:
    """Refuse to publish where the stage's inputs or its sources outside the graph have changed.

    Raises UserError, which names what changed.
    """
    sources = stage_sources(stage, parts["parameters"], profile)
    _compare(profile, stage, parts, {**parts, "inputs": _inputs(profile, parts), "sources": sources})


def _inputs(profile: str, parts: Parts) -> dict[str, str | None]:
    return {name: graph.digest_of(profile, name) for name in parts["inputs"]}


def _compare(profile: str, stage: str, parts: Parts, now: Parts) -> None:
    if changes := differences(parts, now):
        more = " and more" * (len(changes) > 3)
        raise UserError(_refused(profile, stage, "; ".join(str(change) for change in changes[:3]) + more))


def _refused(profile: str, stage: str, why: str) -> str:
    return (
        f"stage {stage} is no longer what its key says: {why}. None of its outputs are published, and its "
        f"work is kept: run `{command('repro', profile, STAGE=stage)}`, which makes a new key."
    )
