"""Communication between driver and rank: files in the stage's workspace, so that it works with any launcher.

The driver writes the node's parameters; the rank writes the node's outputs (a path as a path, a JSON object as it is, a
table where it has prepared it) or an error message of one sentence.
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
"""The folder in the workspace."""


@dataclass(frozen=True)
class Prepared:
    """A table that is written, checked and judged, with its manifest's counts, so that publishing need not read it."""

    path: Path
    counts: dict[str, Any]


def write_parameters(workspace: Path, node: str, parameters: dict[str, Any]) -> None:
    """Write the resolved parameters for a rank, and remove what an earlier rank left (called by the driver)."""
    for path in (_file(workspace, node, "outputs"), _file(workspace, node, "lost"), *_errors(workspace, node)):
        path.unlink(missing_ok=True)
    write_atomic(_file(workspace, node, "parameters"), canonical_json(parameters))


def read_parameters(workspace: Path, node: str) -> dict[str, Any]:
    """Return the resolved parameters (called by the rank)."""
    return _read(workspace, node, "parameters")


def place(workspace: Path, node: str, dataset: str) -> Path:
    """Return an empty place where a rank prepares a table (called by the rank)."""
    path = _file(workspace, node, "outputs").with_name(f"{node}.{dataset}")
    shutil.rmtree(path, ignore_errors=True)
    return path


def write_outputs(workspace: Path, node: str, outputs: dict[str, Any], seconds: float, code: str) -> None:
    """Write the node's outputs: dataset → path, JSON object or Prepared (called by the rank).

    Args:
        workspace: the stage's workspace.
        node: the node's name.
        outputs: what the node returned.
        seconds: the time that the node took.
        code: the name of the snapshot that this process has imported from.

    """
    entries: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, Path):
            entries[name] = {"path": str(value.relative_to(workspace))}
        elif isinstance(value, Prepared):
            entries[name] = {"path": str(value.path.relative_to(workspace)), "counts": value.counts}
        else:
            entries[name] = {"json": value}
    write_atomic(
        _file(workspace, node, "outputs"), canonical_json({"seconds": seconds, "code": code, "outputs": entries})
    )


def write_error(workspace: Path, node: str, sentence: str, rank: int = 0) -> None:
    """Write the one-sentence error for the user (called by the rank)."""
    write_atomic(_file(workspace, node, f"error{rank}"), canonical_json({"error": sentence}))


def write_lost(workspace: Path, node: str, sentence: str) -> None:
    """Write how the ranks ended, in case none of them could (called by torchrun)."""
    write_atomic(_file(workspace, node, "lost"), canonical_json({"error": sentence}))


def has_lost(workspace: Path, node: str) -> bool:
    """Return whether another torchrun has already written how its ranks ended (called by torchrun)."""
    return _file(workspace, node, "lost").exists()


def has_error(workspace: Path, node: str, rank: int | None = None) -> bool:
    """Return whether any rank, or the given one, has written an error (called by the driver)."""
    errors = _errors(workspace, node)
    return bool(errors) if rank is None else _file(workspace, node, f"error{rank}") in errors


def has_outputs(workspace: Path, node: str) -> bool:
    """Return whether a rank has written outputs, with code of the key, that all still exist (called by the driver)."""
    file = _file(workspace, node, "outputs")
    if not file.exists():
        return False
    record = _read(workspace, node, "outputs")
    present = all((workspace / output["path"]).exists() for output in record["outputs"].values() if "path" in output)
    return present and snapshot.is_kept_for(workspace, record.get("code", ""))


def read_outputs(workspace: Path, node: str) -> tuple[dict[str, Any], float]:
    """Return the outputs of a finished rank and the seconds that its node took (called by the driver).

    Raises UserError if the rank has run code from which no driver has made this workspace's key.
    """
    record = _read(workspace, node, "outputs")
    if not snapshot.is_kept_for(workspace, code := record.get("code", "")):
        raise UserError(
            f"node {node} has run {f'the snapshot {code}' if code else 'no snapshot'} of the code, which is not that "
            "of its key: nothing was published, and the same command runs it again."
        )
    return {name: _received(workspace, value) for name, value in record["outputs"].items()}, float(record["seconds"])


def raise_error(workspace: Path, node: str, status: int) -> None:
    """Raise the error of a process that ended with `status`, a rank's own message first (called by the driver)."""
    for path in (*_errors(workspace, node), _file(workspace, node, "lost")):
        if path.exists():
            raise UserError(read_object(path, move_aside(path))["error"])
    raise UserError(how_it_ended(f"node {node}", status))


def how_it_ended(who: str, status: int) -> str:
    """Return the message on a process that ended with `status` and left none itself."""
    how = f"was killed by signal {-status}" if status < 0 else f"failed with exit code {status} (see its output above)"
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
    """Return the content of one of the files. Raises UserError if it is damaged; without it the node starts again."""
    path = _file(workspace, node, name)
    return read_object(path, f"{move_aside(path)}, and the same command goes on from the last checkpoint")


def _file(workspace: Path, node: str, name: str) -> Path:
    folder = workspace / FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{node}.{name}.json"


def _errors(workspace: Path, node: str) -> list[Path]:
    """Return the files with the errors of ranks, by rank."""
    files = (workspace / FOLDER).glob(f"{node}.error*.json")
    return sorted(files, key=lambda path: int(path.name.removeprefix(f"{node}.error").removesuffix(".json")))
