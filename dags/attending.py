"""The process that runs a stage now, known by a lock, which always ends with its holder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.launch.lifetime import is_locked
from pipelines import graph


@contextmanager
def attended_here(profile: str, stage: str) -> Iterator[None]:
    """Hold the lock that says that this process runs the stage and will report it, so that no sensor does."""
    path = _mark(profile, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two runs of one stage, the second waits here
        yield


def attended_by_dagster(profile: str, stage: str) -> bool:
    """Return whether a run inside Dagster works on the stage, and will report it."""
    return is_locked(_mark(profile, stage))


def attended_by_driver(profile: str, stage: str) -> bool:
    """Return whether a driver (`kedro run`) holds the stage's lock."""
    return is_locked(_work(profile, stage) / "lock")


def _work(profile: str, stage: str) -> Path:
    return graph.work_folder(profile) / stage


def _mark(profile: str, stage: str) -> Path:
    return _work(profile, stage) / "dagster.lock"
