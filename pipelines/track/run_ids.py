"""The id of the MLflow run that a run record was imported as, kept in a file beside the record.

data/<profile>/.runs/<stage>/<record>.mlflow maps each MLflow store to the ids of the run and its experiment there, so
that a page can link to the run without a question to MLflow. The importer writes it, and it is never an input of a
stage; removed, or out of date, it is written again by the next import.
"""

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from engine.artifacts.files import canonical_json, object_if_sound, write_atomic

SUFFIX = ".mlflow"


class RunId(NamedTuple):
    """The ids of an MLflow run and of its experiment."""

    experiment: str
    run: str


def write_run_id(record: dict[str, Any], uri: str, run_id: RunId) -> None:
    """Write beside a run record as which run the MLflow store at `uri` has it, unless the file says so already."""
    path, known = _path(record), _ids(record)
    ids = {**known, _store_name(uri): run_id._asdict()}
    if ids != known:
        write_atomic(path, canonical_json(ids))


def read_run_id(record: dict[str, Any], uri: str) -> RunId | None:
    """Return as which run the MLflow store at `uri` has a run record; None if it was not imported there yet."""
    match _ids(record).get(_store_name(uri)):
        case {"experiment": str(experiment), "run": str(run)}:
            return RunId(experiment, run)
    return None


def without_user(uri: str) -> str:
    """Return the address of a store without a user's name and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri


def _path(record: dict[str, Any]) -> Path:
    return Path(record["path"]).with_suffix(SUFFIX)


def _ids(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the file beside a record holds; nothing if it is missing or, with a warning, if it is damaged."""
    return object_if_sound(_path(record)) or {}


def _store_name(uri: str) -> str:
    return without_user(uri).rstrip("/")
