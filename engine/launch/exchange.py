"""What driver and rank tell each other: files in the stage's workspace, so that any launcher can carry them.

The driver writes the node's parameters; the rank writes the node's outputs (a path as a path, a JSON object as
it is, a table where it has prepared it) or one error sentence.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.artifacts.names import BadName, checked_names
from engine.errors import UserError
from engine.identity import snapshot
from engine.remedy import move_aside

FOLDER = ".exchange"
"""In the workspace."""


@dataclass(frozen=True)
class Prepared:
    """A table that is written, checked and judged, with what its manifest is to say of it: publishing reads none."""

    path: Path
    counts: dict[str, Any]


def write_parameters(workspace: Path, node: str, parameters: dict[str, Any]) -> None:
    """Driver: leave the resolved parameters for a rank, and forget what an earlier one left."""
    for path in (_file(workspace, node, "outputs"), _file(workspace, node, "lost"), *_errors(workspace, node)):
        path.unlink(missing_ok=True)
    write_atomic(_file(workspace, node, "parameters"), canonical_json(parameters))


def read_parameters(workspace: Path, node: str) -> dict[str, Any]:
    """Rank: the resolved parameters."""
    return _read(workspace, node, "parameters")


def place(workspace: Path, node: str, dataset: str) -> Path:
    """Rank: where it prepares a table; nothing is there."""
    path = _file(workspace, node, "outputs").with_name(f"{node}.{dataset}")
    shutil.rmtree(path, ignore_errors=True)
    return path


def write_outputs(workspace: Path, node: str, outputs: dict[str, Any], seconds: float, code: str) -> None:
    """Rank: hand over the node's outputs, dataset → path, JSON object or Prepared.

    Args:
        workspace: the stage's.
        node: its name.
        outputs: what it returned.
        seconds: the time it took.
        code: name of the snapshot that this process has imported from.

    """
    told: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, Path):
            told[name] = {"path": str(value.relative_to(workspace))}
        elif isinstance(value, Prepared):
            told[name] = {"path": str(value.path.relative_to(workspace)), "counts": value.counts}
        else:
            told[name] = {"json": value}
    write_atomic(_file(workspace, node, "outputs"), canonical_json({"seconds": seconds, "code": code, "outputs": told}))


def write_error(workspace: Path, node: str, sentence: str, rank: int = 0) -> None:
    """Rank: hand over the one sentence that the user is to read."""
    write_atomic(_file(workspace, node, f"error{rank}"), canonical_json({"error": sentence}))


def write_lost(workspace: Path, node: str, sentence: str) -> None:
    """torchrun: say how the ranks ended, for the case that none of them could."""
    write_atomic(_file(workspace, node, "lost"), canonical_json({"error": sentence}))


def has_lost(workspace: Path, node: str) -> bool:
    """torchrun: whether another one has already said how its ranks ended."""
    return _file(workspace, node, "lost").exists()


def has_error(workspace: Path, node: str, rank: int | None = None) -> bool:
    """Driver: whether a rank, or this one, has handed over a sentence."""
    told = _errors(workspace, node)
    return bool(told) if rank is None else _file(workspace, node, f"error{rank}") in told


def has_outputs(workspace: Path, node: str) -> bool:
    """Driver: whether a rank has left outputs by code of the key, all of which are still where they were left."""
    left = _file(workspace, node, "outputs")
    if not left.exists():
        return False
    told = _read(workspace, node, "outputs")
    there = all((workspace / one["path"]).exists() for one in told["outputs"].values() if "path" in one)
    return there and snapshot.is_kept_for(workspace, told.get("code", ""))


def read_outputs(workspace: Path, node: str) -> tuple[dict[str, Any], float]:
    """Driver: the outputs a finished rank left and the seconds its node took.

    Raises UserError where the rank has run code from which no driver has made this workspace's key.
    """
    told = _read(workspace, node, "outputs")
    if not snapshot.is_kept_for(workspace, code := told.get("code", "")):
        raise UserError(
            f"node {node} has run {f'the snapshot {code}' if code else 'no snapshot'} of the code, which is not that "
            "of its key: nothing was published, and the same command runs it again."
        )
    return {name: _received(workspace, value) for name, value in told["outputs"].items()}, float(told["seconds"])


def raise_error(workspace: Path, node: str, status: int) -> None:
    """Driver: raise what went wrong in a process that ended with `status`: a rank's own sentence comes first."""
    for path in (*_errors(workspace, node), _file(workspace, node, "lost")):
        if path.exists():
            raise UserError(read_object(path, move_aside(path))["error"])
    raise UserError(how_it_ended(f"node {node}", status))


def how_it_ended(who: str, status: int) -> str:
    """The sentence on a process that ended with `status` and left none itself."""
    how = (
        f"was killed by signal {-status}"
        if status < 0
        else f"failed with exit code {status} (what it said stands above)"
    )
    return f"{who} {how}; run the same command again and it goes on from its last checkpoint."


def _received(workspace: Path, output: dict[str, Any]) -> Any:
    if "path" not in output:
        return output["json"]
    try:
        path = workspace / checked_names([output["path"]])[0]
    except BadName as error:
        raise UserError(f"{workspace / FOLDER} names an output {error}: remove that folder and run again.") from error
    return Prepared(path, output["counts"]) if "counts" in output else path


def _read(workspace: Path, node: str, name: str) -> dict[str, Any]:
    """What stands in one of the files. Raises UserError where it is damaged: without it the node goes on anew."""
    path = _file(workspace, node, name)
    return read_object(path, f"{move_aside(path)}, and the same command goes on from the last checkpoint")


def _file(workspace: Path, node: str, name: str) -> Path:
    folder = workspace / FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{node}.{name}.json"


def _errors(workspace: Path, node: str) -> list[Path]:
    """The sentences that ranks have left, by rank."""
    found = (workspace / FOLDER).glob(f"{node}.error*.json")
    return sorted(found, key=lambda path: int(path.name.removeprefix(f"{node}.error").removesuffix(".json")))
