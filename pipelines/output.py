"""What commands print with: a screen of their width, durations for people, and output that may lose its reader.

`kedro run 2>&1 | head -1` ends the reader, not the stage.
"""

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Outliving(io.FileIO):
    """A pipe's end that goes on to /dev/null when nobody reads the pipe any more."""

    def write(self, data: Any, /) -> int:
        """Write, or drop what nobody would read."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """Put such pipes in the places of this process's own output and error; those that a test captures stay."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        pipe = io.BufferedWriter(Outliving(stream.fileno(), "wb", closefd=False))
        lines, at_once = stream.line_buffering, stream.write_through
        setattr(sys, name, io.TextIOWrapper(pipe, stream.encoding, stream.errors, None, lines, at_once))


def duration(seconds: float | None) -> str:
    """Seconds for people: 8 s, 3 min 20 s, 2 h 05 min; ? where nobody knows."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def screen() -> "Console":
    """The terminal, at most 100 columns wide."""
    from rich.console import Console

    return Console(width=min(100, Console().width), highlight=False)
