"""One profile's experiment in an MLflow store: find runs, open them, and write to them in few calls."""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import graph
from pipelines.internals import try_database
from pipelines.track.curves import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORD, LIVE, VERSION = "k2.record", "k2.live", "k2.version"
"""Tags that name what a run represents: a run record, a running stage, a pipeline version."""
COMPLETE, STEP, PARENT = "k2.complete", "k2.step", "mlflow.parentRunId"
DELETED = "deleted"
"""MLflow's state of a deleted experiment, which is hidden and keeps its name."""
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100  # the most that MLflow accepts in one batch
LONGEST_VALUE = 5000
DATABASE_TRIES = 3
"""The most tries to open a database, which take half a second; MLflow's own ten tries take 100 seconds."""
SQLITE = "sqlite:///"
_FORBIDDEN = re.compile(r"[^\w\-. /]")
Metrics = Iterable[tuple[str, float, int, int]]
"""Metrics as (name, value, step, milliseconds)."""


class Store:
    """The runs of one profile, listed once and then kept up to date: opening the same name twice gives the same run.

    `restored` is the experiment's name if it had been deleted and was restored; else "".
    """

    def __init__(self, client: "MlflowClient", profile: str) -> None:
        self.client, self.profile = client, profile
        self.restored = ""
        self.experiment = self._find_experiment()
        self.runs: dict[str, Run] = {}
        self.refresh()

    def refresh(self) -> None:
        """List the runs again, since another process may have imported."""
        self.runs = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                if name := tags.get(RECORD) or tags.get(LIVE) or tags.get(VERSION):
                    self.runs[name] = run
            token = page.token
            if not token:
                return

    def tag(self, name: str, tag: str) -> str | None:
        """Return a tag of the run called `name`; None if there is no such run or tag."""
        return self.runs[name].data.tags.get(tag) if name in self.runs else None

    def open(self, name: str, tags: dict[str, str], started: int, shown: str) -> str:
        """Return the id of the run called `name` (one of its tags is that name); make the run if it is missing."""
        if name not in self.runs:
            self.runs[name] = self.client.create_run(self.experiment, start_time=started, tags=tags, run_name=shown)
        return self.id_of(name)

    def rename(self, old: str, new: str) -> None:
        """Call the run `old` by a new name; the caller writes the tag."""
        self.runs[new] = self.runs.pop(old)

    def id_of(self, name: str) -> str:
        """Return the id of the run called `name`."""
        return str(self.runs[name].info.run_id)

    def write(self, run_id: str, metrics: Metrics = (), parameters: Any = None, tags: Any = None) -> None:
        """Write metrics, parameters and tags (dicts of strings), in as few calls as MLflow allows.

        A point that exists already, with the same step, value and time, is not doubled.
        """
        from mlflow.entities import Metric, Param, RunTag

        for batch in _batches((Metric(_key(n), v, time, step) for n, v, step, time in metrics), MOST_METRICS):
            self.client.log_batch(run_id, metrics=batch)
        for batch in _batches(
            (Param(_key(n), v[:LONGEST_VALUE]) for n, v in (parameters or {}).items()), MOST_PARAMETERS
        ):
            self.client.log_batch(run_id, params=batch)
        for batch in _batches((RunTag(_key(n), v[:LONGEST_VALUE]) for n, v in (tags or {}).items()), MOST_TAGS):
            self.client.log_batch(run_id, tags=batch)

    def write_curves(self, name: str, points: Iterable[Point]) -> int:
        """Add the points beyond the run's last step, in order; return how many.

        The run's tag `k2.step` is its last step. A stage that resumes cuts its history back and makes some rows again:
        those are not added twice, even where another number of processes changed their last bits. All points have the
        run's start as their time, so that a batch sent again after a broken connection adds nothing.
        """
        from mlflow.entities import Metric, RunTag

        run = self.runs[name]
        last_step, started, sent = int(run.data.tags.get(STEP, -1)), run.info.start_time, 0
        for batch in _whole_steps((point for point in points if point.step > last_step), MOST_METRICS):
            last = str(batch[-1].step)
            metrics = [Metric(_key(p.name), p.value, started, p.step) for p in batch]
            self.client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag(STEP, last)])
            run.data.tags[STEP] = last
            sent += len(batch)
        return sent

    def write_datasets(self, run_id: str, context: str, digests: dict[str, str]) -> None:
        """Write the datasets that a stage read or made, by reference: their paths and digests."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", context)]
        inputs = [
            DatasetInput(Dataset(name, digest, "local", json.dumps({"uri": where(self.profile, name)})), tags)
            for name, digest in digests.items()
        ]
        if inputs:
            self.client.log_inputs(run_id, datasets=inputs)

    def _find_experiment(self) -> str:
        """Return the experiment's id; make it if it is missing, restore it if deleted, since its name stays taken."""
        name = experiment_name(self.profile)
        existing = self.client.get_experiment_by_name(name)
        if existing is not None:
            if existing.lifecycle_stage == DELETED:
                self.client.restore_experiment(existing.experiment_id)
                self.restored = name
            return str(existing.experiment_id)
        created = str(self.client.create_experiment(name, artifact_location=artifact_root(self.client.tracking_uri)))
        self.client.set_experiment_tag(created, "mlflow.experimentKind", "custom_model_development")
        return created


def experiment_name(profile: str) -> str:
    """Return the name of a profile's own experiment, so that runs of different sizes are not compared by accident."""
    return f"k2-pipeline-{profile}"


def artifact_root(uri: str) -> str | None:
    """Return the place for plots, beside a local database; None leaves it to the server."""
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None


def where(profile: str, dataset: str) -> str:
    """Return the path of a dataset, relative to the repository."""
    return str(graph.catalog_entries(profile)[dataset]["filepath"])


@contextmanager
def one_at_a_time(profile: str) -> Iterator[bool]:
    """Hold the profile's import lock; wait for an import that is under way.

    Yield whether another process has held it since this one last did, so that the cached runs are out of date.
    """
    path = graph.data_folder(profile) / ".runs" / ".track.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        owner = file.read()
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield owner != str(os.getpid())


def client(uri: str) -> "MlflowClient":
    """Return an MLflow client that gives up on a dead server within seconds and prints nothing about migrations."""
    for name, value in (("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "1"), ("TIMEOUT", "10")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)  # a warning with a traceback for each try
    try_database(DATABASE_TRIES)
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _key(name: str) -> str:
    return _FORBIDDEN.sub("_", name)[:250]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _whole_steps(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    """Yield batches of points that end where a step ends, none longer than `size` unless one step is."""
    batch: list[Point] = []
    step: list[Point] = []
    for point in points:
        if step and point.step != step[-1].step:
            if batch and len(batch) + len(step) > size:
                yield batch
                batch = []
            batch, step = batch + step, []
        step.append(point)
    if batch and len(batch) + len(step) > size:
        yield batch
        batch = []
    if batch + step:
        yield batch + step
