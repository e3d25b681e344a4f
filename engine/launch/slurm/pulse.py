"""Signs of life of a running job. Slurm does not notice where a rank hangs or a node's own supervisor has died."""

import time
from pathlib import Path

from engine.artifacts.files import object_if_sound
from engine.launch.drain import DONE
from engine.launch.heartbeat import WATCHED
from engine.launch.slurm.rundir import RunDirectory


class Pulse:
    """When a job was last seen to live: by what changes in its run directory, on this machine's clock alone.

    It is judged from its first heartbeat on, until its last step is done (what comes then beats no more), and again
    from the file DONE on: a job does not stay when its work is handed over.
    """

    def __init__(self, directory: RunDirectory, job: str, element: int | None, stale_seconds: float) -> None:
        self.own, self.log, self.stale_seconds = directory.of(element), directory.log(job, element), stale_seconds
        self._signs: tuple[object, ...] = ()
        self._since = time.monotonic()

    def silent_for(self, attempt: int) -> float | None:
        """Seconds without a sign of life, where they are too many; then it is counted anew."""
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
        told = object_if_sound(self.own / WATCHED)
        return told is not None and bool(told["step"] < told["steps"])

    def _stamp(self, name: str) -> int:
        return _stamp(self.own / name)


def _stamp(path: Path) -> int:
    """When a file was last written, 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
