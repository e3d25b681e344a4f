"""Signs of life of a running job. Slurm does not notice a rank that hangs, or a node whose supervisor has died."""

import time
from pathlib import Path

from engine.artifacts.files import object_if_sound
from engine.launch.drain import DONE
from engine.launch.heartbeat import WATCHED
from engine.launch.slurm.rundir import RunDirectory


class Pulse:
    """When a job last showed signs of life: changes in its run directory, timed by this machine's clock alone.

    The job is judged from its first heartbeat until its last step is done (there are no heartbeats after that), and
    again once the file DONE exists, since a job should not stay after its work is handed over.
    """

    def __init__(self, directory: RunDirectory, job: str, element: int | None, stale_seconds: float) -> None:
        self.own, self.log, self.stale_seconds = directory.of(element), directory.log(job, element), stale_seconds
        self._signs: tuple[object, ...] = ()
        self._since = time.monotonic()

    def silent_for(self, attempt: int) -> float | None:
        """Return the seconds without a sign of life if they are too many, then start counting again."""
        done = self._stamp(DONE)
        signs = (attempt, done, *(() if done else (self._stamp(WATCHED), _stamp(self.log))))
        if signs != self._signs:
            self._signs, self._since = signs, time.monotonic()
        silent = time.monotonic() - self._since
        if silent < self.stale_seconds or not (done or self._trains()):
            return None
        self._since = time.monotonic()
        return silent

    def _trains(self) -> bool:
        heartbeat = object_if_sound(self.own / WATCHED)
        return heartbeat is not None and bool(heartbeat["step"] < heartbeat["steps"])

    def _stamp(self, name: str) -> int:
        return _stamp(self.own / name)


def _stamp(path: Path) -> int:
    """Return when a file was last written, 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
