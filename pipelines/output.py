"""Standard output and error that may lose their reader: `kedro run 2>&1 | head -1` ends the reader, not the stage."""

import io
import os
import sys
from typing import Any


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
