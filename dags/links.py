"""Where a run can be looked at elsewhere: its MLflow page, its Slurm jobs with their logs, its line in dvc.lock."""

import json
import os
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from engine.artifacts.names import BadName, checked_names
from engine.credentials import masked
from pipelines import graph
from pipelines.ledger import ledger_path, read_ledger
from pipelines.track.serve import HOST
from pipelines.track.session import default_uri
from pipelines.track.store import RECORD, SQLITE, experiment_name

LOCAL_PAGE = f"http://{HOST}:5000"  # what `make compare` serves
ANSWER_SECONDS = 3.0
REMEMBERED_SECONDS = 30  # a stage's assets share one look-up, and a dead server is asked once
LOG_LINES = 30
LOG_BYTES = 8_000  # the end of a log that is looked at for its last lines
Run = tuple[str, str]
"""An MLflow run: the ids of its experiment and itself."""


def mlflow_page(profile: str, record: dict[str, Any]) -> dg.MetadataValue | None:
    """The page of a stage run in MLflow; None if it is not imported yet, a sentence if the server does not answer."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    name = f"{record['stage']}/{Path(record['path']).stem}"
    try:
        found = _find(uri, experiment_name(profile), name, int(time.time()) // REMEMBERED_SECONDS)
    except OSError as error:
        return dg.MetadataValue.text(masked(f"{uri} does not answer: {error}"))
    if found is None:
        return None
    page = LOCAL_PAGE if uri.startswith(SQLITE) else _without_user(uri).rstrip("/")
    return dg.MetadataValue.url(f"{page}/#/experiments/{found[0]}/runs/{found[1]}")


def slurm_jobs(record: dict[str, Any]) -> dict[str, Any]:
    """Metadata of the Slurm jobs that a run dispatched: id, nodes, attempts, times (s), log with its last lines."""
    found: dict[str, Any] = {}
    repository = graph.data_folder(record["profile"]).parent.parent
    for node, job in (record.get("jobs") or {}).items():
        name = f"slurm/{node}"
        found[f"{name}/job"] = str(job["id"])
        found[f"{name}/nodes"] = ", ".join(job["nodes"])
        found[f"{name}/attempts"] = int(job["attempts"])
        found |= {f"{name}/{clock}": float(job[clock]) for clock in ("queue_seconds", "run_seconds") if clock in job}
        if log := job.get("log"):
            try:
                path = repository / checked_names([log])[0]
            except BadName as error:  # the record came from elsewhere, and would have a host's file shown
                found[f"{name}/log"] = f"not shown: {error}"
                continue
            found[f"{name}/log"] = dg.MetadataValue.path(path)
            found[f"{name}/log_end"] = dg.MetadataValue.md("\n".join(["```", *last_lines(path), "```"]))
    return found


def dvc_hash(profile: str, dataset: str) -> str | None:
    """The md5 by which dvc.lock knows a dataset (`….dir` for a directory); None if it is not locked."""
    lock = ledger_path(profile)
    where = str(graph.catalog_entries(profile)[dataset]["filepath"])
    return _locked(profile, lock.stat().st_mtime_ns).get(where) if lock.is_file() else None


def last_lines(path: Path) -> list[str]:
    """The end of a log; a bar that was redrawn in place counts with its last state."""
    if not path.is_file():
        return [f"{path} is not there"]
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return [line.rpartition("\r")[2] for line in text.rstrip("\n").split("\n")][-LOG_LINES:]


def _without_user(uri: str) -> str:
    """Return a server's address for whoever looks: a browser asks for name and password itself."""
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@cache
def _locked(profile: str, _modified: int) -> dict[str, str]:
    """Path → md5 of every output in a dvc.lock."""
    return {
        out["path"]: out["md5"]
        for stage in read_ledger(profile).values()
        for out in stage.get("outs", [])
        if "md5" in out
    }


@cache
def _find(uri: str, experiment: str, name: str, _period: int) -> Run | None:
    """The MLflow run that was imported from a run record; MLflow itself takes seconds to import."""
    return _in_database(uri, name) if uri.startswith(SQLITE) else _on_server(uri, experiment, name)


def _in_database(uri: str, name: str) -> Run | None:
    path = Path(uri.removeprefix(SQLITE))
    if not path.is_file():
        return None
    query = (
        "SELECT r.experiment_id, r.run_uuid FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid "
        "WHERE t.key = ? AND t.value = ? AND r.lifecycle_stage = 'active'"
    )
    database = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, timeout=ANSWER_SECONDS)
    try:
        row = database.execute(query, (RECORD, name)).fetchone()
    except sqlite3.OperationalError as error:  # being made, or locked by an import
        raise OSError(str(error)) from error
    finally:
        database.close()
    return (str(row[0]), str(row[1])) if row else None


def _on_server(uri: str, experiment: str, name: str) -> Run | None:
    where = f"experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': experiment})}"
    known = _ask(uri, where)
    if known is None:
        return None
    number = known["experiment"]["experiment_id"]
    wanted = {"experiment_ids": [number], "filter": f"tags.`{RECORD}` = '{name}'", "max_results": 1}
    runs = (_ask(uri, "runs/search", wanted) or {}).get("runs", [])
    return (str(number), str(runs[0]["info"]["run_id"])) if runs else None


def _ask(uri: str, where: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """An answer of MLflow's REST API; None for what it does not know."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/{where}", data)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
