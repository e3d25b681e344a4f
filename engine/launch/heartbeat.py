"""Files that say that a run is alive, how far it is and what its figures are, for whoever watches from outside."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.records import now
from engine.launch.drain import run_directory

HEARTBEAT = "heartbeat.json"
WATCHED = "heartbeat"
"""Its name in the run directory of a dispatched node."""
METRICS = "metrics.json"
"""Beside it: the last step's figures."""
EVERY_SECONDS = 5.0


class Heartbeat:
    """Writes `directory`/heartbeat.json, whole: step, steps, time, pid, host; every few seconds and at the end.

    And the same to `heartbeat` in the run directory, where the node was dispatched, with the figures in `metrics.json`.
    """

    def __init__(self, directory: Path, steps: int, every: float = EVERY_SECONDS) -> None:
        self.path, self.steps, self.every, self.dispatched = directory / HEARTBEAT, steps, every, run_directory()
        self._last = -float("inf")

    def beat(self, step: int, figures: Mapping[str, Any]) -> None:
        """Say that `step` steps are done, the last with `figures`, if it is time to or they are all."""
        if time.monotonic() - self._last < self.every and step < self.steps:
            return
        self._last = time.monotonic()
        told = {"step": step, "steps": self.steps, "time": now(), "pid": os.getpid(), "host": socket.gethostname()}
        write_atomic(self.path, canonical_json(told))
        if self.dispatched:
            write_atomic(self.dispatched / METRICS, canonical_json({**figures, "step": step, "steps": self.steps}))
            write_atomic(self.dispatched / WATCHED, canonical_json(told))
