"""Digests of files outside the repository, remembered until a file changes.

A digest stays valid while the file's size, times and inode equal those from before it was read. They include the change
time, so an edit that restores the old modification time (`touch -r`, `rsync -t`) is noticed as well. The digest of a
file written a moment ago is not remembered: a file system's clock is coarse, and an edit within the same tick would
leave the same times.
"""

import json
import os
import sys
import time
from pathlib import Path

from engine.artifacts.files import canonical_json, digest_file
from engine.errors import UserError, warn

STORE = Path("data/.sources.json")
"""The store, below the repository: path → [size, modification time, change time, inode, blake2b]. Only a cache."""
YOUNG_NS = 2_000_000_000
"""The age from which a file's times reveal every later edit: the coarsest file system clock ticks every two seconds."""
_MOST = 200_000
_LARGE = 1 << 30

Stamp = list[int]


class Digests:
    """Digests by path; those in `store` are used for files that have not been touched since."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known = _read(store)
        self._added: dict[str, list[int | str]] = {}

    def of(self, path: Path) -> str:
        """Return the blake2b digest of a file's content.

        Raises:
            UserError: the file cannot be read, or is written while it is read.

        """
        name = str(path.absolute())
        try:
            before = _stamp(path)
            known = self._known.get(name)
            if known is not None and known[:-1] == before:
                return str(known[-1])
            if before[0] >= _LARGE:
                print(f"reading {path} ({before[0] / 1e9:.0f} GB) for its digest", file=sys.stderr, flush=True)
            begun = time.time_ns()
            digest = digest_file(path)
            after = _stamp(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): repair the file or its permissions.") from error
        if after != before:
            raise UserError(f"{path} is being written: wait until it is complete, then run the same command again.")
        if begun - max(before[1], before[2]) > YOUNG_NS:
            self._known[name] = self._added[name] = [*before, digest]
        return digest

    def save(self) -> None:
        """Save the new digests together with those that other processes saved meanwhile; warn if that fails."""
        if not self._added:
            return
        kept = {**_read(self._store), **self._added}
        if len(kept) > _MOST:
            kept = self._added
        partial = self._store.with_name(f"{self._store.name}.{os.getpid()}")  # each writer has its own
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(canonical_json(kept))
            os.replace(partial, self._store)
        except OSError as error:  # a user who only looks needs no right to write
            warn(f"{self._store} cannot be written ({error.strerror}): files that parameters name are read each time.")
        self._added = {}


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(store: Path) -> dict[str, list[int | str]]:
    """Return the saved digests; nothing if the store is missing, foreign or broken."""
    try:
        return {str(name): list(entry) for name, entry in json.loads(store.read_bytes()).items() if len(entry) == 5}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
