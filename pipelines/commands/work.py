"""`make work`: list the unfinished work of a profile's stages, each under its key; GC=1 removes some.

A stage that is stopped leaves its work in data/<profile>/.work/<stage>/<key>/. It stays there when the key changes (an
edited learning rate, say) and is resumed when the key returns, or under today's key by `make adopt-work`.

GC=1 removes the work whose key was published after the work began, and work untouched for DAYS days (30). It keeps the
work of today's key, the newest unpublished work of each stage, and all work of a stage that is running.

    python -m pipelines.commands.work --env laptop [--gc [--days 30]]
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from engine.artifacts.files import files_below, object_if_sound
from engine.errors import UserError
from engine.identity.difference import differences
from engine.identity.records import BEGUN, good_records
from engine.launch.lifetime import holders, is_locked, lock
from engine.launch.slurm.submit import under_way
from engine.remedy import move_aside
from engine.training.position import position
from pipelines import graph
from pipelines.dispatch import run_directories
from pipelines.errors import report_errors
from pipelines.output import duration, screen
from pipelines.stages_file import load_stages_file
from pipelines.status import StageStatus, stage_status

DAYS = 30.0
BLOCKS = "[0-9]" * 8 + "-" + "[0-9]" * 8 + ".parquet"
"""The files of finished blocks (engine/launch/job_array)."""


@dataclass(frozen=True)
class Unfinished:
    """The work of one stage under one key.

    `begun` is the note that the runner wrote at the last start; {} if there is none. `touched` is the time of the
    latest change of a file, in seconds since 1970.
    """

    stage: str
    path: Path
    begun: dict[str, Any]
    size: int
    touched: float

    @property
    def key(self) -> str:
        """The stage key of the work."""
        return self.path.name

    @property
    def step(self) -> str:
        """How far the work got: the newest checkpoint's step out of all steps, or the number of finished blocks."""
        if where := position(self.path):
            return str(where).replace(" of ", "/")
        blocks = sum(1 for _ in self.path.glob(f"**/{BLOCKS}"))
        return f"{blocks} blocks" if blocks else "none"


def unfinished(profile: str, stage: str | None = None) -> list[Unfinished]:
    """Return all unfinished work of a profile, or of one stage: by stage, newest first."""
    works: list[Unfinished] = []
    for name in [stage] if stage else load_stages_file().stages:
        own = [_read(name, path) for path in graph.work_folders(profile, name)]
        works += sorted(own, key=lambda work: -work.touched)
    return works


def _read(stage: str, path: Path) -> Unfinished:
    size, touched = 0, path.stat().st_mtime
    for file in files_below(path):
        try:
            stat = file.stat()
        except FileNotFoundError:  # replaced by the process that works there
            continue
        size, touched = size + stat.st_size, max(touched, stat.st_mtime)
    begun = object_if_sound(path / BEGUN, move_aside(path / BEGUN)) or {}
    return Unfinished(stage, path, begun, size, touched)


def differs(work: Unfinished, status: StageStatus) -> str:
    """Return what differs from today's key, in one line."""
    if work.key == status.key:
        return "nothing: the same command goes on"
    if not work.begun or status.parts is None:
        return "unknown: its begun.json is missing or damaged"
    changes = differences(work.begun["parts"], status.parts)
    more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0]}{more}" if changes else "no difference that its begun.json shows"


def show(profile: str, works: list[Unfinished]) -> None:
    """Print the works as a table."""
    from rich.table import Table

    table = Table(title=f"unfinished work of profile {profile}, {megabytes(works)}", title_justify="left")
    for column in ("stage", "key", "step", "MB", "age"):
        table.add_column(column, justify="left" if column in {"stage", "key"} else "right", no_wrap=True)
    table.add_column("what differs from today's key", overflow="fold")
    statuses = stage_status(profile)
    attended: set[str] = set()
    for work in works:
        at_work = work.stage not in attended and bool(_held(work.path.parent))
        attended.add(work.stage)
        age = "at work" if at_work else since(work)
        difference = escape(differs(work, statuses[work.stage]))
        table.add_row(work.stage, work.key, work.step, f"{work.size / 1e6:,.1f}", age, difference)
    screen().print(table if works else f"Profile {profile} has no unfinished work.")


def since(work: Unfinished) -> str:
    """Return how long ago the work was touched, as text."""
    seconds = max(time.time() - work.touched, 0)
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else duration(seconds)


def megabytes(works: list[Unfinished]) -> str:
    """Return the works' total size as text."""
    return f"{sum(work.size for work in works) / 1e6:,.1f} MB"


def collect(profile: str, days: float) -> tuple[list[tuple[Unfinished, str]], list[str]]:
    """Remove the work that the rule allows; return it with reasons, and sentences on work that is in use."""
    statuses, removed, refused = stage_status(profile), [], []
    for stage in load_stages_file().stages:
        due = _due(
            unfinished(profile, stage), good_records(graph.runs_folder(profile, stage)), statuses[stage].key, days
        )
        if not due:
            continue
        try:
            with lock(graph.work_folder(profile) / stage / "lock", f"stage {stage} of profile {profile}", patience=0):
                _refuse_beside_ranks(profile, stage)
                for work, reason in due:
                    if jobs := [job for directory in run_directories(work.path) for job in under_way(directory)]:
                        refused.append(f"job {jobs[0]} works in {work.path}: wait for it or `scancel {jobs[0]}`.")
                        continue
                    shutil.rmtree(work.path)
                    removed.append((work, reason))
        except UserError as error:
            refused.append(str(error))
    return removed, refused


def _refuse_beside_ranks(profile: str, stage: str) -> None:
    """Refuse if a rank is at work that the holder of the stage's lock has not started.

    A rank of a job, or one whose driver has just been killed, holds a lock of its own and not the stage's
    (pipelines/rank.py). The lock does not name its key, and Slurm may have forgotten its job already.

    Raises UserError, which names the lock and its holders.
    """
    for path in _held(graph.work_folder(profile) / stage, "lock.*"):
        raise UserError(
            f"a rank of stage {stage} of profile {profile} is at work ({path} is held by {holders(path)}): wait for "
            "it or stop it."
        )


def _held(place: Path, locks: str = "lock*") -> list[Path]:
    """Return a stage's locks that a process holds now: its driver's, and one of each rank."""
    return [path for path in sorted(place.glob(locks)) if is_locked(path)]


def _due(
    works: list[Unfinished], good: list[dict[str, Any]], today: str | None, days: float
) -> list[tuple[Unfinished, str]]:
    """Return the work of one stage that the rule removes, newest first, each with the reason."""
    due, newest = [], True
    for work in works:
        started = str(work.begun.get("started", ""))
        published = [run for run in good if run["key"] == work.key and str(run["finished"]) > started]
        if published and started:
            due.append((work, f"published {str(published[-1]['finished'])[:16].replace('T', ' ')}"))
            continue
        if not newest and work.key != today and time.time() - work.touched > days * 86400:
            due.append((work, f"untouched for {since(work)}"))
        newest = False
    return due


def main() -> None:
    """List the work; with --gc first remove the work that the rule allows."""
    parser = argparse.ArgumentParser(description="The unfinished work of a profile's stages.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--gc", action="store_true", help="remove what was published since, or is old")
    parser.add_argument("--days", type=float, default=DAYS, help="how old work is that --gc removes")
    arguments = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(arguments.env)
        refused: list[str] = []
        if arguments.gc:
            removed, refused = collect(profile, arguments.days)
            for work, reason in removed:
                print(f"{work.size / 1e6:9,.1f} MB  {work.stage} {work.key}, {work.step}: {reason}")
            print(f"{sum(work.size for work, _ in removed) / 1e6:9,.1f} MB  removed")
        show(profile, unfinished(profile))
        if refused:
            raise UserError(" ".join(f"not removed: {sentence}" for sentence in refused))


if __name__ == "__main__":
    main()
