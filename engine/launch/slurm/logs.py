"""Show a job's log as it grows."""

import sys
from pathlib import Path

LAST_BYTES = 4000


class Tail:
    """Shows what is added to a file, line by line, each with `prefix`."""

    def __init__(self, path: Path, prefix: str = "", from_start: bool = True) -> None:
        self.path, self.prefix = path, prefix
        self._rest = b""
        self._at = 0 if from_start else self._line_near_the_end()

    def pump(self, all_of_it: bool = False) -> bool:
        """Show what has been added; return whether anything was. An unfinished line waits, unless `all_of_it`."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return False
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if all_of_it and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            print(self.prefix + line.decode(errors="replace"), file=sys.stderr)
        sys.stderr.flush()
        return bool(new)

    def _line_near_the_end(self) -> int:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        start = max(len(data) - LAST_BYTES, 0)
        return data.find(b"\n", start) + 1 if start else 0
