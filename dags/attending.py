"""Who attends a stage now: a lock tells, since it ends with its holder, whatever ends that."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import graph


@contextmanager
def attended_here(profile: str, stage: str) -> Iterator[None]:
    """Hold the mark that this process runs the stage and reports it, so that no sensor takes it for a shell's run."""
    path = _mark(profile, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two runs of one stage: the second waits here
        yield


def attended_by_dagster(profile: str, stage: str) -> bool:
    """Whether a run inside Dagster is at the stage, and will report it."""
    return _is_locked(_mark(profile, stage))


def attended_by_driver(profile: str, stage: str) -> bool:
    """Whether a driver (`kedro run`) holds the stage's lock."""
    return _is_locked(_work(profile, stage) / "lock")


def _work(profile: str, stage: str) -> Path:
    return graph.work_folder(profile) / stage


def _mark(profile: str, stage: str) -> Path:
    return _work(profile, stage) / "dagster.lock"


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
