"""Helpers to print with: a screen, durations for people, and output streams that may lose their reader.

`kedro run 2>&1 | head -1` ends the reader, not the stage.
"""

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Outliving(io.FileIO):
    """A pipe's writing end that continues to /dev/null once nobody reads the pipe any more."""

    def write(self, data: Any, /) -> int:
        """Write `data`, or drop it where nobody reads the pipe."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """Replace this process's own output and error by such pipes; streams that a test captures stay."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        pipe = io.BufferedWriter(Outliving(stream.fileno(), "wb", closefd=False))
        lines, at_once = stream.line_buffering, stream.write_through
        setattr(sys, name, io.TextIOWrapper(pipe, stream.encoding, stream.errors, None, lines, at_once))


def duration(seconds: float | None) -> str:
    """Return seconds as text for people: 8 s, 3 min 20 s, 2 h 05 min; ? for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def screen() -> "Console":
    """Return the terminal's console, at most 100 columns wide."""
    from rich.console import Console

    return Console(width=min(100, Console().width), highlight=False)
