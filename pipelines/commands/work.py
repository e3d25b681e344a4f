"""`make work`: the unfinished work of a profile's stages, each under the key that it was begun with; GC=1 clears some.

A stage that is stopped leaves its work in data/<profile>/.work/<stage>/<key>/. It stays there when the key changes (an
edited learning rate, say) and is gone on with when the key returns, or under today's key by `make adopt-work`.

GC=1 removes the work whose key was published after the work began, and what has not been touched for DAYS days (30).
It keeps the work of today's key, the newest unpublished work of each stage, and all of a stage that a process or job is
at.

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
    """The work of one stage under one key. `begun` is what the runner noted when it last started; {} if it could not.

    `touched` is when a file of it last changed, in seconds since 1970.
    """

    stage: str
    path: Path
    begun: dict[str, Any]
    size: int
    touched: float

    @property
    def key(self) -> str:
        """The stage key that it belongs to."""
        return self.path.name

    @property
    def step(self) -> str:
        """How far it got: the step of its newest checkpoint of how many, or its finished blocks."""
        if where := position(self.path):
            return str(where).replace(" of ", "/")
        blocks = sum(1 for _ in self.path.glob(f"**/{BLOCKS}"))
        return f"{blocks} blocks" if blocks else "none"


def unfinished(profile: str, stage: str | None = None) -> list[Unfinished]:
    """All unfinished work of a profile, or of one stage: by stage, the newest of a stage first."""
    found: list[Unfinished] = []
    for name in [stage] if stage else load_stages_file().stages:
        mine = [_read(name, path) for path in graph.work_folders(profile, name)]
        found += sorted(mine, key=lambda work: -work.touched)
    return found


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
    """What differs from today's key, in a line."""
    if work.key == status.key:
        return "nothing: the same command goes on"
    if not work.begun or status.parts is None:
        return "unknown: it left no note of what it began with"
    changes = differences(work.begun["parts"], status.parts)
    more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0]}{more}" if changes else "nothing that its note shows"


def show(profile: str, works: list[Unfinished]) -> None:
    """Print them as a table."""
    from rich.table import Table

    table = Table(title=f"unfinished work of profile {profile}, {megabytes(works)}", title_justify="left")
    for column in ("stage", "key", "step", "MB", "age"):
        table.add_column(column, justify="left" if column in {"stage", "key"} else "right", no_wrap=True)
    table.add_column("what differs from today's key", overflow="fold")
    statuses = stage_status(profile)
    attended: set[str] = set()
    for work in works:
        now = work.stage not in attended and bool(_held(work.path.parent))
        attended.add(work.stage)
        age = "at work" if now else since(work)
        told = escape(differs(work, statuses[work.stage]))
        table.add_row(work.stage, work.key, work.step, f"{work.size / 1e6:,.1f}", age, told)
    screen().print(table if works else f"Profile {profile} has no unfinished work.")


def since(work: Unfinished) -> str:
    """How long ago it was touched."""
    seconds = max(time.time() - work.touched, 0)
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else duration(seconds)


def megabytes(works: list[Unfinished]) -> str:
    """Their size together."""
    return f"{sum(work.size for work in works) / 1e6:,.1f} MB"


def collect(profile: str, days: float) -> tuple[list[tuple[Unfinished, str]], list[str]]:
    """Remove what the rule lets go: each such work with the reason; and the sentences on what is in use."""
    statuses, gone, refused = stage_status(profile), [], []
    for stage in load_stages_file().stages:
        due = _due(
            unfinished(profile, stage), good_records(graph.runs_folder(profile, stage)), statuses[stage].key, days
        )
        if not due:
            continue
        try:
            with lock(graph.work_folder(profile) / stage / "lock", f"stage {stage} of profile {profile}", patience=0):
                _refuse_beside_ranks(profile, stage)
                for work, why in due:
                    if jobs := [job for directory in run_directories(work.path) for job in under_way(directory)]:
                        refused.append(f"job {jobs[0]} works in {work.path}: wait for it or `scancel {jobs[0]}`.")
                        continue
                    shutil.rmtree(work.path)
                    gone.append((work, why))
        except UserError as error:
            refused.append(str(error))
    return gone, refused


def _refuse_beside_ranks(profile: str, stage: str) -> None:
    """See that no rank is at work that the holder of the stage's lock has not started.

    A rank of a job, or one whose driver has just been killed, holds a lock of its own and not the stage's
    (pipelines/rank.py); which key it works under it does not say, and Slurm may have forgotten its job already.

    Raises UserError where one is.
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
    """What the rule lets go of one stage's work, newest first, and why."""
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
    """List the work; with --gc first remove what the rule lets go."""
    parser = argparse.ArgumentParser(description="The unfinished work of a profile's stages.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--gc", action="store_true", help="remove what was published since, or is old")
    parser.add_argument("--days", type=float, default=DAYS, help="how old work is that --gc removes")
    asked = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(asked.env)
        refused: list[str] = []
        if asked.gc:
            gone, refused = collect(profile, asked.days)
            for work, why in gone:
                print(f"{work.size / 1e6:9,.1f} MB  {work.stage} {work.key}, {work.step}: {why}")
            print(f"{sum(work.size for work, _ in gone) / 1e6:9,.1f} MB  removed")
        show(profile, unfinished(profile))
        if refused:
            raise UserError(" ".join(f"not removed: {sentence}" for sentence in refused))


if __name__ == "__main__":
    main()
