"""A file that says that a run is alive and how far it is, for whoever watches from outside."""

import os
import socket
import time
from pathlib import Path

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import now

HEARTBEAT = "heartbeat.json"
EVERY_SECONDS = 5.0


class Heartbeat:
    """Writes `directory`/heartbeat.json, whole: step, steps, time, pid, host; every few seconds and at the end."""

    def __init__(self, directory: Path, steps: int, every: float = EVERY_SECONDS) -> None:
        self.path, self.steps, self.every = directory / HEARTBEAT, steps, every
        self._last = -float("inf")

    def beat(self, step: int) -> None:
        """Say that `step` steps are done, if it is time to or they are all."""
        if time.monotonic() - self._last < self.every and step < self.steps:
            return
        self._last = time.monotonic()
        told = {"step": step, "steps": self.steps, "time": now(), "pid": os.getpid(), "host": socket.gethostname()}
        write_atomic(self.path, canonical_json(told))
