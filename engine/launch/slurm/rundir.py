"""The run directory of a dispatched node, on a shared file system: files of driver, script and ranks for each other.

    key            the idempotency key of the last submission, written before it: the job's comment
    job.sbatch     the script; job.json: the submission, with the job's id as soon as there is one
    slurm-ID.out   the log; ranks-N/: output of the other ranks of attempt N
    attempts.jsonl a line when an attempt begins, and one when its script ends
    heartbeat, drain, DONE, failed, exit.json   of the current attempt
    metrics.json   the figures of a step, the last or one of seconds ago: loss, tokens per second, and so on

An element of a job array has the files of the last five lines in its own folder element-I.
"""

import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, read_rows, write_atomic
from engine.errors import UserError
from engine.launch.fence import ATTEMPTS
from engine.launch.heartbeat import METRICS, WATCHED
from engine.launch.slurm.states import Exit
from engine.remedy import move_aside

SKEW_WARN_SECONDS = 5.0
ROOM_BYTES = 1 << 28
KEPT = ("key", "job.sbatch", "job.json", "slurm-*.out", ATTEMPTS, WATCHED, METRICS, "failed", "exit.json")
"""Small text files that are kept when the workspace is removed."""


@dataclass(frozen=True)
class Submitted:
    """job.json: a submission, and how far its driver has handled it.

    `id` is "" until sbatch has returned it, `submitted` the time. `elements` are those of a job array, () for a plain
    job; `ended` is the state in which the driver saw it end; `published` whether its outputs were taken. `spent`
    submissions in a row left no new checkpoint; `mark` was the newest one then. `previous` are the ids of earlier
    submissions, `excluded` the nodes found unfit.
    """

    id: str
    key: str
    submitted: float
    elements: tuple[int, ...] = ()
    shards: int = 1
    ended: str | None = None
    published: bool = False
    spent: int = 0
    mark: str = ""
    previous: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class RunDirectory:
    """One node's run directory, as its driver uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> str:
        """Create it and check that it can be written; return a warning if its file system's clock is off, or "".

        Raises UserError if it cannot be written.
        """
        probe = self.path / ".clock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(probe, b"")
        except OSError as error:
            raise UserError(
                f"the run directory {self.path} cannot be written ({error.strerror}): it must lie on a file system "
                "that this machine and the cluster's nodes share and may write."
            ) from error
        return skew(probe.stat().st_mtime - time.time(), self.path)

    def room(self) -> str:
        """Return a message if the file system is (nearly) full, so that no rank could leave an error; else ""."""
        free = shutil.disk_usage(self.path).free
        if free >= ROOM_BYTES:
            return ""
        return f"{free / 1e6:.0f} MB are left on the disk of {self.path}, which may be why: free some space first"

    @property
    def script(self) -> Path:
        """The path of the sbatch file."""
        return self.path / "job.sbatch"

    def begin(self, elements: tuple[int, ...], shards: int) -> Submitted:
        """Begin a submission under a new key; from now on no earlier job belongs to this directory."""
        key = f"k-{uuid.uuid4().hex}"
        write_atomic(self.path / "key", key.encode())
        now, before = Submitted("", key, time.time(), elements, shards), self.submitted()
        if before:
            previous = (*before.previous, *[before.id] * bool(before.id))
            now = replace(now, spent=before.spent, mark=before.mark, previous=previous, excluded=before.excluded)
        return self.write(now)

    def submitted(self) -> Submitted | None:
        """Return the last submission."""
        path = self.path / "job.json"
        try:
            fields = read_object(path, f"{move_aside(path)} (`squeue --me` shows whether its job still runs)")
        except (FileNotFoundError, NotADirectoryError):  # `prepare` reports a file in the way
            return None
        lists = {name: tuple(fields[name]) for name in ("elements", "previous", "excluded")}
        return Submitted(**{**fields, **lists})

    def write(self, submitted: Submitted) -> Submitted:
        """Write job.json."""
        write_atomic(self.path / "job.json", canonical_json(vars(submitted)))
        return submitted

    def update(self, **changes: Any) -> None:
        """Change fields of job.json."""
        if last := self.submitted():
            self.write(replace(last, **changes))

    def of(self, element: int | None) -> Path:
        """Return the folder of an element's own files; for a plain job, this directory."""
        return self.path if element is None else self.path / f"element-{element}"

    def log(self, job: str, element: int | None = None) -> Path:
        """Return the log of a job or of an element."""
        return self.path / (f"slurm-{job}.out" if element is None else f"slurm-{job}_{element}.out")

    def exit(self, job: str, element: int | None = None) -> Exit | None:
        """Return the exit.json of exactly this job, if it exists."""
        fields = _json(self.of(element) / "exit.json")
        if fields is None or fields["job"] != (job if element is None else f"{job}_{element}"):
            return None
        return Exit(**{name: fields[name] for name in ("job", "attempt", "rc", "drain", "done", "failed")})

    def bad_nodes(self) -> tuple[str, ...]:
        """Return the nodes that a health check has found unfit."""
        nodes = {line for path in self.path.glob("**/bad-nodes") for line in path.read_text().split()}
        return tuple(sorted(nodes))

    def attempts(self, element: int | None = None) -> list[dict[str, Any]]:
        """Return the lines of attempts.jsonl: beginnings (`begun`) and ends (`ended`), in order."""
        path = self.of(element) / ATTEMPTS
        return read_rows(path) if path.exists() else []

    def record(self) -> dict[str, Any] | None:
        """Return the run record's entry on the node's job; None if none was submitted.

        `queue_seconds` is from the submission to its first attempt, `run_seconds` that of all attempts whose end is
        known.
        """
        job = self.submitted()
        if job is None:
            return None
        lines = [line for element in job.elements or (None,) for line in self.attempts(element)]
        mine = [line for line in lines if line["job"].split("_")[0] == job.id]
        begun = [line for line in lines if "begun" in line]
        first = min((line["begun"] for line in mine if "begun" in line), default=time.time())
        log = self.log(job.id, job.elements[0] if job.elements else None)
        return {
            "id": job.id,
            "nodes": sorted({node for line in begun for node in expand(line["nodes"])}),
            "attempts": max(len(begun), 1),
            "queue_seconds": round(max(first - job.submitted, 0.0), 1),
            "run_seconds": float(_run_seconds(lines)),
            "log": log.name,
        }


def skew(seconds: float, path: Path) -> str:
    """Return a warning about a file system whose clock is `seconds` ahead of this machine's; "" if the gap is small.

    Nothing waits by that clock: a heartbeat is judged by when it changes, on the watcher's own clock. But times in
    records, and what make and DVC take for newer, depend on it.
    """
    if abs(seconds) <= SKEW_WARN_SECONDS:
        return ""
    which = "ahead of" if seconds > 0 else "behind"
    return (
        f"the clock of the file system of {path} is {abs(seconds):.0f} s {which} this machine's, so times in logs and "
        "run records will not agree: set the clocks (NTP)"
    )


def expand(nodes: str) -> list[str]:
    """Return node names in Slurm's notation, one by one.

    >>> expand("h800-[0-1,3],login")
    ['h800-0', 'h800-1', 'h800-3', 'login']
    """
    names: list[str] = []
    for part in _split(nodes):
        head, bracket, rest = part.partition("[")
        if not bracket:
            names.append(head)
            continue
        inside, _, tail = rest.partition("]")
        for span in inside.split(","):
            first, _, last = span.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            names += [f"{head}{number:0{len(first)}d}{suffix}" for number in numbers for suffix in expand(tail) or [""]]
    return names


def _split(nodes: str) -> list[str]:
    """Split at the commas that are not in brackets."""
    parts, depth = [""], 0
    for letter in nodes:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part]


def _run_seconds(lines: list[dict[str, Any]]) -> int:
    """Return the seconds from each beginning to the end that follows it, of the same job and attempt."""
    begun = {(line["job"], line["attempt"]): line["begun"] for line in lines if "begun" in line}
    ended = {(line["job"], line["attempt"]): line["ended"] for line in lines if "ended" in line}
    return sum(ended[attempt] - begun[attempt] for attempt in begun.keys() & ended.keys())


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path, move_aside(path))
    except FileNotFoundError:
        return None
