"""One profile's experiment in an MLflow store: finding runs, opening them, writing to them in few calls."""

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
"""Tags that say what a run stands for: a run record, a stage that is running, a pipeline version."""
COMPLETE, STEP, PARENT = "k2.complete", "k2.step", "mlflow.parentRunId"
DELETED = "deleted"
"""MLflow's word for an experiment that somebody has deleted: it is hidden, and keeps its name."""
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100  # what MLflow takes in one batch
LONGEST_VALUE = 5000
DATABASE_TRIES = 3
"""How often a database is tried at most, which takes half a second; MLflow's own ten tries take 100 seconds."""
SQLITE = "sqlite:///"
_FORBIDDEN = re.compile(r"[^\w\-. /]")
Metrics = Iterable[tuple[str, float, int, int]]
"""(name, value, step, milliseconds)"""


class Store:
    """The runs of one profile, found once and kept track of: a second opening of the same name finds the first.

    `restored` is the name of the experiment where it had been deleted and was brought back.
    """

    def __init__(self, client: "MlflowClient", profile: str) -> None:
        self.client, self.profile = client, profile
        self.restored = ""
        self.experiment = self._find_experiment()
        self.runs: dict[str, Run] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read again which runs there are: another process may have imported."""
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
        """A tag of the run called `name`; None if there is no such run or tag."""
        return self.runs[name].data.tags.get(tag) if name in self.runs else None

    def open(self, name: str, tags: dict[str, str], started: int, shown: str) -> str:
        """The run called `name` (one of its tags is that name), made if missing: its id."""
        if name not in self.runs:
            self.runs[name] = self.client.create_run(self.experiment, start_time=started, tags=tags, run_name=shown)
        return self.id_of(name)

    def rename(self, old: str, new: str) -> None:
        """Let the run called `old` be known by another name; the caller writes the tag that says so."""
        self.runs[new] = self.runs.pop(old)

    def id_of(self, name: str) -> str:
        """The run's id."""
        return str(self.runs[name].info.run_id)

    def write(self, run_id: str, metrics: Metrics = (), parameters: Any = None, tags: Any = None) -> None:
        """Metrics, parameters and tags (dicts of strings), in as few calls as MLflow takes.

        A point that is there already, with the same step, value and time, stays one.
        """
        from mlflow.entities import Metric, Param, RunTag

        for some in _batches((Metric(_key(n), v, time, step) for n, v, step, time in metrics), MOST_METRICS):
            self.client.log_batch(run_id, metrics=some)
        for some in _batches(
            (Param(_key(n), v[:LONGEST_VALUE]) for n, v in (parameters or {}).items()), MOST_PARAMETERS
        ):
            self.client.log_batch(run_id, params=some)
        for some in _batches((RunTag(_key(n), v[:LONGEST_VALUE]) for n, v in (tags or {}).items()), MOST_TAGS):
            self.client.log_batch(run_id, tags=some)

    def write_curves(self, name: str, points: Iterable[Point]) -> int:
        """Add the points that lie beyond what the run has, in order; return how many.

        The run's tag `k2.step` tells how far it has them. A stage that resumes cuts its history back and makes some
        rows again: those are not taken twice, even where another number of processes changed their last bits. All
        points bear the run's start as their time, so that a batch sent again after a broken connection adds nothing.
        """
        from mlflow.entities import Metric, RunTag

        run = self.runs[name]
        far, started, sent = int(run.data.tags.get(STEP, -1)), run.info.start_time, 0
        for some in _whole_steps((point for point in points if point.step > far), MOST_METRICS):
            last = str(some[-1].step)
            metrics = [Metric(_key(p.name), p.value, started, p.step) for p in some]
            self.client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag(STEP, last)])
            run.data.tags[STEP] = last
            sent += len(some)
        return sent

    def write_datasets(self, run_id: str, context: str, digests: dict[str, str]) -> None:
        """The datasets that a stage read or left, by reference: where they are kept, and their digests."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", context)]
        found = [
            DatasetInput(Dataset(name, digest, "local", json.dumps({"uri": where(self.profile, name)})), tags)
            for name, digest in digests.items()
        ]
        if found:
            self.client.log_inputs(run_id, datasets=found)

    def _find_experiment(self) -> str:
        """The profile's experiment, made if missing; one that was deleted comes back, since its name stays taken."""
        name = experiment_name(self.profile)
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == DELETED:
                self.client.restore_experiment(found.experiment_id)
                self.restored = name
            return str(found.experiment_id)
        made = str(self.client.create_experiment(name, artifact_location=artifact_root(self.client.tracking_uri)))
        self.client.set_experiment_tag(made, "mlflow.experimentKind", "custom_model_development")
        return made


def experiment_name(profile: str) -> str:
    """One experiment a profile: runs of different sizes are not compared by accident."""
    return f"k2-pipeline-{profile}"


def artifact_root(uri: str) -> str | None:
    """Where plots go: beside a local database; None leaves it to the server."""
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None


def where(profile: str, dataset: str) -> str:
    """Where a dataset is kept, relative to the repository."""
    return str(graph.catalog_entries(profile)[dataset]["filepath"])


@contextmanager
def one_at_a_time(profile: str) -> Iterator[bool]:
    """Hold the profile's import lock, waiting for an import that is under way.

    Yields whether another process held it since this one last did, so that what is known of the store is old.
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
    """An MLflow client that gives a dead server up after seconds and says nothing of migrations."""
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
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _whole_steps(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    """Runs of points that end where a step ends, none longer than `size` unless one step is."""
    some: list[Point] = []
    step: list[Point] = []
    for point in points:
        if step and point.step != step[-1].step:
            if some and len(some) + len(step) > size:
                yield some
                some = []
            some, step = some + step, []
        step.append(point)
    if some and len(some) + len(step) > size:
        yield some
        some = []
    if some + step:
        yield some + step
