"""Import run records into MLflow: a parent run for each pipeline version, a nested run for each stage run."""

from datetime import datetime
from pathlib import Path
from typing import Any

from engine.identity.records import DETACHED, INTERRUPTED, PULLED, read_records
from pipelines import graph
from pipelines.stages_file import load_stages_file
from pipelines.track.curves import curves, keepsakes, kept_curves, number_like, present
from pipelines.track.run_ids import RunId, write_run_id
from pipelines.track.store import COMPLETE, LONGEST_VALUE, PARENT, RECORD, VERSION, Store
from pipelines.track.versions import Record, Version, versions

COUNTS = ("attempts", "queue_seconds", "run_seconds")
"""A job's figures; its id, nodes and log are tags."""


def read_all_records(profile: str) -> list[Record]:
    """Return the records of a profile's runs.

    Without those of drivers that left, which a later record completes, and of pulled outputs: their run was elsewhere,
    and a shared server has it from there.
    """
    runs = graph.data_folder(profile) / ".runs"
    records = [record for stage in load_stages_file().stages for record in read_records(runs / stage)]
    return [record for record in records if record["outcome"] not in {DETACHED, INTERRUPTED, PULLED}]


class Importer:
    """Imports one profile's records into one MLflow experiment.

    A run's tag `k2.record` names its record and `k2.complete` says that all of it was written; a run left half
    written by a crash is completed by the next import, and so is one that was followed while its stage ran.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._profile = store, store.profile

    def import_all(self, records: list[Record]) -> int:
        """Write every record that is not there yet; return how many stage runs were written."""
        written = 0
        for version in versions(records):
            new = [record for record in version.members if self._store.tag(record_name(record), COMPLETE) != "true"]
            if new:
                parent = self._parent(version)
                for record in new:
                    self._stage_run(record, parent)
                self._sum_up(version, parent)
                written += len(new)
            for record in version.members:
                self._write_run_id(record)
        return written

    def _write_run_id(self, record: Record) -> None:
        """Leave the run's id beside its record; of a run that an earlier import wrote, too."""
        store = self._store
        run_id = RunId(store.experiment, store.id_of(record_name(record)))
        write_run_id(record, store.client.tracking_uri, run_id)

    def _parent(self, version: Version) -> str:
        """Return the run of a whole pipeline version; the one opened while its first stage ran, if there is one."""
        first = version.members[0]
        if version.name not in self._store.runs and provisional(first) in self._store.runs:
            self._store.rename(provisional(first), version.name)
            self._store.write(self._store.id_of(version.name), tags={VERSION: version.name})
        return open_version(self._store, version.name, first)

    def _sum_up(self, version: Version, parent: str) -> None:
        """Write the parent's own figures: every stage's parameters and headline metrics under the stage's name."""
        known = self._store.client.get_run(parent).data.params
        parameters: dict[str, str] = {}
        metrics: list[tuple[str, float, int, int]] = []
        tags: dict[str, str] = {}
        for stage, record in version.runs.items():
            parameters |= {name: value for name, value in parameters_of(record).items() if name not in known}
            finished = milliseconds(record["finished"])
            metrics += [(f"{stage}/{name}", value, 0, finished) for name, value in _metrics(record)]
            tags |= {f"k2.key.{stage}": record["key"]}
        self._store.write(parent, metrics, parameters, tags)
        failed = version.members[-1]["outcome"] == "failed"
        finished = milliseconds(max(str(record["finished"]) for record in version.members))
        self._store.client.set_terminated(parent, "FAILED" if failed else "FINISHED", finished)

    def _stage_run(self, record: Record, parent: str) -> None:
        store, name, finished = self._store, record_name(record), milliseconds(record["finished"])
        tags = {RECORD: name, PARENT: parent, **origin(record), **_facts(record), **_job_tags(record)}
        self._take_over(record, parent)
        run_id = store.open(name, tags, milliseconds(record["started"]), record["stage"])
        made = {output: digest for output, digest in record["outputs"].items() if digest}  # older ones hold None
        outputs = {f"output.{output}": digest for output, digest in made.items()}
        metrics = [(figure, value, 0, finished) for figure, value in _metrics(record)]
        store.write(run_id, metrics, parameters_of(record), tags | outputs)
        folders = present(self._profile, record)
        store.write_curves(name, kept_curves(record) or curves(folders))
        store.write_datasets(run_id, "input", record["parts"]["inputs"])
        store.write_datasets(run_id, "output", made)
        for path, folder in keepsakes(folders):
            store.client.log_artifact(run_id, str(path), folder)
        store.client.set_terminated(run_id, "FAILED" if record["outcome"] == "failed" else "FINISHED", finished)
        store.client.set_tag(run_id, COMPLETE, "true")
        store.runs[name].data.tags[COMPLETE] = "true"

    def _take_over(self, record: Record, parent: str) -> None:
        """Give the record the run that was followed while its stage ran; drop a parent opened for it in vain."""
        store, name, live, opened = self._store, record_name(record), live_name(record), provisional(record)
        if name not in store.runs and live in store.runs:
            store.rename(live, name)
        if opened in store.runs and store.id_of(opened) != parent:
            store.client.delete_run(store.runs.pop(opened).info.run_id)


def open_version(store: Store, name: str, first: Record) -> str:
    """Return the id of the parent run of the version `name`, which the stage run `first` opened."""
    commit = str(first["commit"] or "no commit")[:8] + ("+" if first["dirty"] else "")
    shown = f"{store.profile} {str(first['started'])[:16].replace('T', ' ')} {commit}"
    return store.open(name, {VERSION: name, **origin(first)}, milliseconds(first["started"]), shown)


def record_name(record: Record) -> str:
    """Return the name of a record's run: stage, key and time."""
    return f"{record['stage']}/{Path(record['path']).stem}"


def live_name(run: Record) -> str:
    """Return the name of the run of a stage that is still running: stage and key."""
    return f"{run['stage']}/{run['key']}"


def provisional(run: Record) -> str:
    """Return the name of the version that a stage which is still running opens."""
    return f"{run['stage']}-{run['key']}-live"


def origin(record: Record) -> dict[str, str]:
    """Return the tags by which MLflow shows user, command and commit."""
    command = f"kedro run --env {record['profile']} --pipelines {record['stage']}"
    tags = {"mlflow.user": record["user"], "mlflow.source.git.commit": record["commit"], "mlflow.source.name": command}
    more = {"mlflow.source.type": "PROJECT", "k2.profile": record["profile"], "k2.dirty": record["dirty"]}
    return {name: str(value) for name, value in {**tags, **more}.items() if value is not None}


def parameters_of(record: Record) -> dict[str, str]:
    """Return the parameters by dotted name, which begins with the stage's."""
    return {name: str(value) for name, value in record["parts"]["parameters"].items()}


def milliseconds(moment: Any) -> int:
    """Return a time as MLflow counts it, in milliseconds since 1970."""
    return int(datetime.fromisoformat(str(moment)).timestamp() * 1000)


def _facts(record: Record) -> dict[str, str]:
    names = ("stage", "key", "host", "outcome", "error", "attempt", "warning", "origin")
    return {f"k2.{name}": str(record[name])[:LONGEST_VALUE] for name in names if record.get(name) is not None}


def _job_tags(record: Record) -> dict[str, str]:
    """Return tags for each node that ran as a Slurm job: its id, machines, log and attempts."""
    tags: dict[str, str] = {}
    for node, job in record.get("jobs", {}).items():
        nodes = ",".join(job["nodes"])
        tags |= {
            f"k2.job.{node}.{name}": str(value)
            for name, value in (("id", job["id"]), ("nodes", nodes), ("attempts", job["attempts"]), ("log", job["log"]))
        }
    return tags


def _metrics(record: Record) -> list[tuple[str, float]]:
    clocks = {"seconds": record["seconds"], **{f"seconds/{name}": s for name, s in record["node_seconds"].items()}}
    jobs = {
        f"jobs/{node}/{name}": job[name] for node, job in record.get("jobs", {}).items() for name in COUNTS
    }  # fmt: skip
    everything = {**record["metrics"], **clocks, **jobs}
    return [(name, float(value)) for name, value in everything.items() if number_like(value)]
