"""A file that says that a run is alive and how far it is, for whoever watches from outside."""

import os
import socket
import time
from pathlib import Path

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import now
from engine.launch.drain import run_directory

HEARTBEAT = "heartbeat.json"
WATCHED = "heartbeat"
"""Its name in the run directory of a dispatched node."""
EVERY_SECONDS = 5.0


class Heartbeat:
    """Writes `directory`/heartbeat.json, whole: step, steps, time, pid, host; every few seconds and at the end.

    And the same to `heartbeat` in the run directory, where the node was dispatched.
    """

    def __init__(self, directory: Path, steps: int, every: float = EVERY_SECONDS) -> None:
        self.paths, self.steps, self.every = [directory / HEARTBEAT], steps, every
        if dispatched := run_directory():
            self.paths.append(dispatched / WATCHED)
        self._last = -float("inf")

    def beat(self, step: int) -> None:
        """Say that `step` steps are done, if it is time to or they are all."""
        if time.monotonic() - self._last < self.every and step < self.steps:
            return
        self._last = time.monotonic()
        told = {"step": step, "steps": self.steps, "time": now(), "pid": os.getpid(), "host": socket.gethostname()}
        for path in self.paths:
            write_atomic(path, canonical_json(told))
