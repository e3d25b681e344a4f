"""Record Ctrl-C and SIGTERM while a job is watched, without raising, so that none hits between sbatch and its id."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from engine.errors import UserError


class Detached(UserError):
    """The driver detaches from a running job; nothing has failed."""

    exit_code = 75


class Interrupts:
    """Counts Ctrl-C and records SIGTERM while the block lasts."""

    def __init__(self) -> None:
        self.presses = 0
        self.terminated = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install handlers for both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.presses += 1
        else:
            self.terminated = True
