"""Links from a run to its MLflow page, its Slurm jobs with their logs, and its entry in dvc.lock."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from engine.artifacts.names import BadName, checked_names
from pipelines import graph
from pipelines.ledger import ledger_path, read_ledger
from pipelines.track.run_ids import read_run_id, without_user
from pipelines.track.serve import HOST
from pipelines.track.session import default_uri
from pipelines.track.store import SQLITE

LOCAL_PAGE = f"http://{HOST}:5000"  # what `make compare` serves
LOG_LINES = 30
LOG_BYTES = 8_000  # the end of a log that is read for its last lines


def mlflow_page(record: dict[str, Any]) -> dg.MetadataValue | None:
    """Return the page of a stage run in MLflow; None if the run is not imported yet."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    imported = read_run_id(record, uri)
    if imported is None:
        return None
    page = LOCAL_PAGE if uri.startswith(SQLITE) else without_user(uri).rstrip("/")
    return dg.MetadataValue.url(f"{page}/#/experiments/{imported.experiment}/runs/{imported.run}")


def slurm_jobs(record: dict[str, Any]) -> dict[str, Any]:
    """Return metadata of a run's Slurm jobs: id, nodes, attempts, times (s), log with its last lines."""
    metadata: dict[str, Any] = {}
    repository = graph.data_folder(record["profile"]).parent.parent
    for node, job in (record.get("jobs") or {}).items():
        name = f"slurm/{node}"
        metadata[f"{name}/job"] = str(job["id"])
        metadata[f"{name}/nodes"] = ", ".join(job["nodes"])
        metadata[f"{name}/attempts"] = int(job["attempts"])
        metadata |= {f"{name}/{clock}": float(job[clock]) for clock in ("queue_seconds", "run_seconds") if clock in job}
        if log := job.get("log"):
            try:
                path = repository / checked_names([log])[0]
            except BadName as error:  # the record came from elsewhere, and would have a host's file shown
                metadata[f"{name}/log"] = f"not shown: {error}"
                continue
            metadata[f"{name}/log"] = dg.MetadataValue.path(path)
            metadata[f"{name}/log_end"] = dg.MetadataValue.md("\n".join(["```", *last_lines(path), "```"]))
    return metadata


def dvc_hash(profile: str, dataset: str) -> str | None:
    """Return the md5 of a dataset in dvc.lock (`….dir` for a directory); None if it is not locked."""
    lock = ledger_path(profile)
    where = str(graph.catalog_entries(profile)[dataset]["filepath"])
    return _locked(profile, lock.stat().st_mtime_ns).get(where) if lock.is_file() else None


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a log; a progress bar that was redrawn in place counts with its last state."""
    if not path.is_file():
        return [f"{path} is not there"]
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return [line.rpartition("\r")[2] for line in text.rstrip("\n").split("\n")][-LOG_LINES:]


@cache
def _locked(profile: str, _modified: int) -> dict[str, str]:
    """Return path → md5 of every output in a dvc.lock."""
    return {
        out["path"]: out["md5"]
        for stage in read_ledger(profile).values()
        for out in stage.get("outs", [])
        if "md5" in out
    }
