"""Import the progress of a running stage into MLflow while it runs.

The runner writes begun.json into a stage's workspace, and the training loop appends to history.jsonl there. The MLflow
run made of them is named by stage and key, so that a stage which is killed and resumed continues the same one; when the
stage's record appears, the importer completes the run.
"""

from dataclasses import dataclass, field
from pathlib import Path

from engine.artifacts.files import object_if_sound
from engine.identity.records import BEGUN, INTERRUPTED, read_records
from engine.remedy import move_aside
from engine.training.journal import HISTORY, left_by_training
from pipelines import graph
from pipelines.track.curves import Point, points_of
from pipelines.track.importer import live_name, milliseconds, open_version, origin, parameters_of, provisional
from pipelines.track.store import LIVE, PARENT, Store
from pipelines.track.versions import Record, home_of, versions

RUNNING = "RUNNING"


@dataclass(frozen=True)
class Running:
    """A stage with work in progress: its begun.json, and the path of its history, which may not exist yet.

    `paused` is whether Ctrl-C has stopped it.
    """

    begun: Record
    history: Path
    paused: bool = False


def in_progress(profile: str) -> list[Running]:
    """Return every stage of a profile that has begun and still has its workspace, killed ones too."""
    paths = sorted(graph.work_folder(profile).glob(f"*/*/{BEGUN}"))
    return [
        Running(begun, left_by_training(path.parent, HISTORY) or path.parent / HISTORY, _is_paused(profile, begun))
        for path in paths
        if (begun := object_if_sound(path, move_aside(path)))  # None: finished and removed since the listing
    ]


def _is_paused(profile: str, begun: Record) -> bool:
    """Return whether the attempt of this begun.json was interrupted."""
    records = read_records(graph.runs_folder(profile, begun["stage"]), begun["key"])
    return any((run["outcome"], run["started"]) == (INTERRUPTED, begun["started"]) for run in records)


@dataclass
class Tail:
    """A reader of the whole rows that are appended to a history."""

    path: Path
    offset: int = 0
    number: int = 0  # of the row at the offset
    step: int = field(default=-1, init=False)

    def size(self) -> int:
        """Return the history's size in bytes; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def points(self) -> list[Point]:
        """Return the points of newly appended rows, or of all rows if the history was cut back below the offset.

        A history that was cut back and has grown beyond the offset again is recognized by its next row, which must be
        the next step; a row that is still being written is left for the next call.
        """
        if self.size() < self.offset:
            self._rewind()
        points = self._read()
        if points is None:
            self._rewind()
            points = self._read() or []
        return points

    def _rewind(self) -> None:
        self.offset, self.number, self.step = 0, 0, -1

    def _read(self) -> list[Point] | None:
        """Read from the offset; None if the rows there do not continue the last row that was read."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(self.offset - 1, 0))
                if self.offset and file.read(1) != b"\n":
                    return None
                data = file.read()
        except FileNotFoundError:
            return []
        rows = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        points = [list(points_of(row, self.number + n, self.path)) for n, row in enumerate(rows)]
        steps = [row_points[0].step for row_points in points if row_points]
        if self.offset and steps and steps[0] != self.step + 1:
            return None
        self.offset += sum(map(len, rows))
        self.number += len(rows)
        self.step = steps[-1] if steps else self.step
        return [point for row_points in points for point in row_points]


class Follower:
    """Writes the rows of running stages into their MLflow runs, each row once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[
            tuple[Path, str], Tail
        ] = {}  # an attempt may have an MLflow run of its own, which begins anew

    def follow(self, running: list[Running], records: list[Record]) -> int:
        """Write new rows of `running`, and close the runs of stages that are gone; return the number of new points.

        Args:
            running: the stages with work in progress, listed before the records were read: a stage that ends in
                between is in both, never in neither.
            records: all run records of the profile.

        """
        ended = {(record["key"], record["started"]) for record in records}
        points = 0
        for stage in running:
            if (stage.begun["key"], stage.begun["started"]) not in ended:
                points += self._take_up(stage, records)
                if stage.paused:
                    self._pause(live_name(stage.begun))
        self._close({live_name(stage.begun) for stage in running})
        return points

    def _take_up(self, stage: Running, records: list[Record]) -> int:
        tail = self._tails.setdefault((stage.history, stage.begun["started"]), Tail(stage.history))
        name, points = live_name(stage.begun), tail.points()
        if not points:
            return 0
        if name not in self._store.runs:
            self._open(stage.begun, records)
        if self._store.runs[name].info.status != RUNNING:  # it was dropped or paused, and runs again
            for run in (self._store.id_of(name), self._store.runs[name].data.tags[PARENT]):
                self._store.client.update_run(run, status=RUNNING)
            self._store.refresh()
        return self._store.write_curves(name, points)

    def _open(self, begun: Record, records: list[Record]) -> None:
        """Open an MLflow run for a running stage, under the version that it will most likely belong to."""
        store, name = self._store, live_name(begun)
        home = home_of(begun, records, versions(records))
        parent = (
            open_version(store, home.name, home.members[0]) if home else open_version(store, provisional(begun), begun)
        )
        store.client.update_run(parent, status=RUNNING)
        facts = {f"k2.{fact}": str(begun[fact]) for fact in ("stage", "key", "host")}
        tags = {LIVE: name, PARENT: parent, **origin(begun), **facts}
        run_id = store.open(name, tags, milliseconds(begun["started"]), begun["stage"])
        store.write(run_id, parameters=parameters_of(begun))
        store.write_datasets(run_id, "input", begun["parts"]["inputs"])

    def _pause(self, name: str) -> None:
        """Mark the run of a stage that Ctrl-C stopped, and its parent as one that will continue.

        In MLflow's words KILLED is "killed by user" and SCHEDULED "scheduled to run at a later time"; the parent of a
        pause must not look like that of a failure.
        """
        store = self._store
        if name in store.runs and store.runs[name].info.status == RUNNING:
            store.client.set_terminated(store.id_of(name), "KILLED")
            store.client.update_run(store.runs[name].data.tags[PARENT], status="SCHEDULED")
            store.refresh()

    def _close(self, known: set[str]) -> None:
        """Mark as killed the followed runs with neither a workspace nor a record: their work was dropped."""
        store = self._store
        for name, run in list(store.runs.items()):
            if name != run.data.tags.get(LIVE) or name in known or run.info.status != RUNNING:
                continue
            store.client.set_terminated(run.info.run_id, "KILLED")
            opened = f"{name.replace('/', '-')}-live"
            store.client.set_terminated(run.data.tags[PARENT], "KILLED" if opened in store.runs else "FINISHED")
            store.refresh()
