"""Files that show observers that a run is alive, how far it is and what its figures are."""

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
"""The heartbeat's name in the run directory of a dispatched node."""
METRICS = "metrics.json"
"""The last step's figures, in the same folder."""
EVERY_SECONDS = 5.0


class Heartbeat:
    """Writes `directory`/heartbeat.json atomically: step, steps, time, pid, host; every few seconds and at the end.

    For a dispatched node it writes the same to `heartbeat` in the run directory, and the figures to `metrics.json`.
    """

    def __init__(self, directory: Path, steps: int, every: float = EVERY_SECONDS) -> None:
        self.path, self.steps, self.every, self.dispatched = directory / HEARTBEAT, steps, every, run_directory()
        self._last = -float("inf")

    def beat(self, step: int, figures: Mapping[str, Any]) -> None:
        """Record that `step` steps are done, the last with `figures`, if it is time for it or all steps are done."""
        if time.monotonic() - self._last < self.every and step < self.steps:
            return
        self._last = time.monotonic()
        state = {"step": step, "steps": self.steps, "time": now(), "pid": os.getpid(), "host": socket.gethostname()}
        write_atomic(self.path, canonical_json(state))
        if self.dispatched:
            write_atomic(self.dispatched / METRICS, canonical_json({**figures, "step": step, "steps": self.steps}))
            write_atomic(self.dispatched / WATCHED, canonical_json(state))
