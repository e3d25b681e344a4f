"""Writing run records into MLflow: a parent run a pipeline version, a nested run a stage run, each once."""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.identity.records import read_records
from pipelines import graph
from pipelines.manifest import load_manifest
from pipelines.track.curves import curves, keepsakes, number_like, present
from pipelines.track.versions import Record, Version, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORD, COMPLETE, VERSION = "k2.record", "k2.complete", "k2.version"
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100  # what MLflow takes in one batch
LONGEST_VALUE = 5000
SQLITE = "sqlite:///"
_FORBIDDEN = re.compile(r"[^\w\-. /]")


def read_all_records(profile: str) -> list[Record]:
    """Every run record of a profile."""
    runs = graph.data_folder(profile) / ".runs"
    return [record for stage in load_manifest().stages for record in read_records(runs / stage)]


class Importer:
    """Brings one profile's records into one MLflow experiment.

    A run's tag `k2.record` names its record and `k2.complete` says that all of it was written; a run left half
    written by a crash is completed by the next import.
    """

    def __init__(self, client: "MlflowClient", profile: str) -> None:
        self._client, self._profile = client, profile
        self._experiment = self._find_experiment()
        self._runs: dict[str, Run] = self._known_runs()

    def import_all(self, records: list[Record]) -> int:
        """Write every record that is not there yet; return how many stage runs were written."""
        written = 0
        for version in versions(records):
            new = [record for record in version.members if not self._is_complete(_name(record))]
            if new:
                parent = self._parent(version)
                for record in new:
                    self._stage_run(record, parent)
                self._sum_up(version, parent)
                written += len(new)
        return written

    def _find_experiment(self) -> str:
        name = experiment_name(self._profile)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        where = artifact_root(self._client.tracking_uri)
        made = str(self._client.create_experiment(name, artifact_location=where))
        self._client.set_experiment_tag(made, "mlflow.experimentKind", "custom_model_development")
        return made

    def _known_runs(self) -> "dict[str, Run]":
        """Record or version name → its MLflow run."""
        found: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                if name := run.data.tags.get(RECORD) or run.data.tags.get(VERSION):
                    found[name] = run
            token = page.token
            if not token:
                return found

    def _is_complete(self, name: str) -> bool:
        return name in self._runs and self._runs[name].data.tags.get(COMPLETE) == "true"

    def _run(self, name: str, tags: dict[str, str], started: int, shown: str) -> "Run":
        if name not in self._runs:
            self._runs[name] = self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=shown)
        return self._runs[name]

    def _parent(self, version: Version) -> "Run":
        """The run of a whole pipeline version."""
        first = version.members[0]
        commit = str(first["commit"] or "no commit")[:8] + ("+" if first["dirty"] else "")
        shown = f"{self._profile} {str(first['started'])[:16].replace('T', ' ')} {commit}"
        tags = {VERSION: version.name, **_origin(first)}
        return self._run(version.name, tags, _milliseconds(first["started"]), shown)

    def _sum_up(self, version: Version, parent: "Run") -> None:
        """The parent's own figures: every stage's parameters and headline metrics under the stage's name."""
        run_id = parent.info.run_id
        known = self._client.get_run(run_id).data.params
        parameters: dict[str, str] = {}
        metrics: list[tuple[str, float, int, int]] = []
        tags: dict[str, str] = {}
        for stage, record in version.runs.items():
            parameters |= {name: value for name, value in _parameters(record).items() if name not in known}
            metrics += [
                (f"{stage}/{name}", value, 0, _milliseconds(record["finished"])) for name, value in _metrics(record)
            ]
            tags |= {f"k2.key.{stage}": record["key"]}
        self._write(run_id, metrics, parameters, tags)
        failed = version.members[-1]["outcome"] == "failed"
        finished = max(str(record["finished"]) for record in version.members)
        self._client.set_terminated(run_id, "FAILED" if failed else "FINISHED", _milliseconds(finished))

    def _stage_run(self, record: Record, parent: "Run") -> None:
        tags = {RECORD: _name(record), "mlflow.parentRunId": parent.info.run_id, **_origin(record), **_facts(record)}
        run_id = self._run(_name(record), tags, _milliseconds(record["started"]), record["stage"]).info.run_id
        finished = _milliseconds(record["finished"])
        folders = present(self._profile, record)
        metrics = [(name, value, 0, finished) for name, value in _metrics(record)]
        # a curve's own clock is its step: equal on every import, so that a second import adds nothing
        metrics += [(point.name, point.value, point.step, finished) for point in curves(folders)]
        self._write(
            run_id, metrics, _parameters(record), {f"output.{name}": d for name, d in record["outputs"].items()}
        )
        self._inputs(run_id, record)
        for path, folder in keepsakes(folders):
            self._client.log_artifact(run_id, str(path), folder)
        status = "FAILED" if record["outcome"] == "failed" else "FINISHED"
        self._client.set_terminated(run_id, status, finished)
        self._client.set_tag(run_id, COMPLETE, "true")

    def _write(
        self, run_id: str, metrics: list[tuple[str, float, int, int]], parameters: dict[str, str], tags: dict[str, str]
    ) -> None:
        """Metrics (name, value, step, time), parameters and tags, in as few calls as MLflow takes."""
        from mlflow.entities import Metric, Param, RunTag

        for some in _batches((Metric(_key(n), v, time, step) for n, v, step, time in metrics), MOST_METRICS):
            self._client.log_batch(run_id, metrics=some)
        for some in _batches((Param(_key(n), v[:LONGEST_VALUE]) for n, v in parameters.items()), MOST_PARAMETERS):
            self._client.log_batch(run_id, params=some)
        for some in _batches((RunTag(_key(n), v[:LONGEST_VALUE]) for n, v in tags.items()), MOST_TAGS):
            self._client.log_batch(run_id, tags=some)

    def _inputs(self, run_id: str, record: Record) -> None:
        """The datasets a stage read, with their digests."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        context = InputTag("mlflow.data.context", record["stage"])
        found = [
            DatasetInput(Dataset(name, digest, "local", json.dumps({"uri": _where(self._profile, name)})), [context])
            for name, digest in record["parts"]["inputs"].items()
        ]
        if found:
            self._client.log_inputs(run_id, datasets=found)


def experiment_name(profile: str) -> str:
    """One experiment a profile: runs of different sizes are not compared by accident."""
    return f"k2-pipeline-{profile}"


def artifact_root(uri: str) -> str | None:
    """Where plots go: beside a local database; None leaves it to the server."""
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None


@contextmanager
def one_at_a_time(profile: str) -> Iterator[None]:
    """Hold the profile's import lock, waiting for an import that is under way."""
    path = graph.data_folder(profile) / ".runs" / ".track.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def client(uri: str) -> "MlflowClient":
    """An MLflow client that gives a dead server up after seconds and says nothing of migrations."""
    for name, value in (("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "10")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    from mlflow import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _name(record: Record) -> str:
    return f"{record['stage']}/{Path(record['path']).stem}"


def _origin(record: Record) -> dict[str, str]:
    """The tags by which MLflow shows who ran what from which commit."""
    command = f"kedro run --env {record['profile']} --pipelines {record['stage']}"
    found = {"mlflow.user": record["user"], "mlflow.source.git.commit": record["commit"], "mlflow.source.name": command}
    more = {"mlflow.source.type": "PROJECT", "k2.profile": record["profile"], "k2.dirty": record["dirty"]}
    return {name: str(value) for name, value in {**found, **more}.items() if value is not None}


def _facts(record: Record) -> dict[str, str]:
    names = ("stage", "key", "host", "outcome", "error", "attempt", "job_id")
    return {f"k2.{name}": str(record[name])[:LONGEST_VALUE] for name in names if record.get(name) is not None}


def _metrics(record: Record) -> list[tuple[str, float]]:
    clocks = {"seconds": record["seconds"], **{f"seconds/{name}": s for name, s in record["node_seconds"].items()}}
    return [(name, float(value)) for name, value in {**record["metrics"], **clocks}.items() if number_like(value)]


def _parameters(record: Record) -> dict[str, str]:
    """Dotted parameter names, which begin with their stage's."""
    return {name: str(value) for name, value in record["parts"]["parameters"].items()}


def _where(profile: str, dataset: str) -> str:
    return str(graph.catalog_entries(profile)[dataset]["filepath"])


def _key(name: str) -> str:
    return _FORBIDDEN.sub("_", name)[:250]


def _milliseconds(moment: Any) -> int:
    return int(datetime.fromisoformat(str(moment)).timestamp() * 1000)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
