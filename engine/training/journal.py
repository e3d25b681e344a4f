"""What a run reports while it trains: its history, its clocks, its heartbeat, lines for the user.

Only the first rank's journal writes; the others' do nothing, so that the loop need not distinguish them.
"""

import json
import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.launch.heartbeat import Heartbeat
from engine.progress import progress

HISTORY, TIMING, TRAINING = "history.jsonl", "timing.jsonl", "training.json"
"""A row per step; the clocks; and the summary of a finished run: its steps, ranks, and the digest of its state."""


def left_by_training(workspace: Path, name: str) -> Path | None:
    """Return a file of a stage's training, which works in the stage's workspace or in its folder `training`."""
    return next((path for path in (workspace / name, workspace / "training" / name) if path.exists()), None)


class Log:
    """Lines for the user, on standard error; none where `speaks` is false.

    It is called as a logger is (`log.info`) by the rule of engine/identity/normal_form: the text of such a call is no
    part of a stage's code, so rewording a line makes nothing stale.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks

    def info(self, line: str) -> None:
        """Print one line."""
        if self.speaks:
            print(line, file=sys.stderr, flush=True)


class Journal:
    """The journal in `work` of a run of `steps` steps, `done` of them in earlier attempts; `speaks` on the first rank.

    history.jsonl has a row per step and nothing that differs between runs; timing.jsonl has tokens per second.
    """

    def __init__(self, work: Path, title: str, steps: int, done: int, speaks: bool) -> None:
        self.work, self.title, self.steps, self.done, self.speaks = work, title, steps, done, speaks
        self.log = Log(speaks)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the files and show the progress bar."""
        if self.speaks:
            self._file = self._stack.enter_context((self.work / HISTORY).open("ab"))
            self._bar = self._stack.enter_context(progress(self.title, self.steps))
            self._clock, self._heart = _Clock(self.work / TIMING), Heartbeat(self.work, self.steps)
            self._bar.advance(self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files and the progress bar."""
        self._stack.close()

    def write(self, row: dict[str, Any], tokens: int) -> None:
        """Append a step's row without figures that are NaN or infinite, which JSON lacks, and show the progress."""
        if not self.speaks:
            return
        row = {name: value for name, value in row.items() if not _no_number(value)}
        self._file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        rate, left = self._clock.tick(row["step"], tokens, self.steps)
        loss = f"{row['loss']:.3f}" if "loss" in row else "no number"
        self._bar.advance(1, loss=loss, tok_s=f"{rate:,.0f}", left=f"{left:.0f}s")
        self._heart.beat(row["step"], {**row, "tokens_per_second": round(rate, 1)})

    def sync(self) -> None:
        """Write all rows to the disk, because a checkpoint relies on them."""
        if self.speaks:
            self._file.flush()
            os.fsync(self._file.fileno())


def _no_number(value: Any) -> bool:
    """Return whether a figure, or one in a list, is NaN or infinite."""
    if isinstance(value, list):
        return any(map(_no_number, value))
    return isinstance(value, float) and not math.isfinite(value)


class _Clock:
    """The speed in tokens per second, kept apart from the history because it differs between runs."""

    EVERY = 50

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = self.mark = time.monotonic()
        self.tokens = self.steps = self.marked_tokens = 0

    def tick(self, step: int, tokens: int, total: int) -> tuple[float, float]:
        """Count a step; return tokens per second so far and seconds left."""
        now = time.monotonic()
        self.tokens += tokens
        self.steps += 1
        if step % self.EVERY == 0 or step == total:
            rate = (self.tokens - self.marked_tokens) / max(now - self.mark, 1e-9)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "tokens_per_second": round(rate, 1)}) + "\n")
            self.mark, self.marked_tokens = now, self.tokens
        elapsed = max(now - self.start, 1e-9)
        return self.tokens / elapsed, elapsed / self.steps * (total - step)
