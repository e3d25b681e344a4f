"""Remember content hashes, so that a payload of terabytes is read once and not at every load.

A hash stays valid while the file's size and modification time are the same as when it was taken. The process that
makes a large directory (a rank, on its node) writes the hashes there; sealing and verifying then read no content.
"""

from pathlib import Path

from engine.artifacts.files import canonical_json, digest_file, files_below, read_object, write_atomic
from engine.errors import UserError

SUMS = ".sums.json"
"""The file in the directory: path → [bytes, modification time in ns, blake2b]. It does not count as content."""

Sums = dict[str, list[int | str]]


def remember(directory: Path) -> dict[str, str]:
    """Hash the files below `directory` that have no valid hash yet, save all hashes there, return path → blake2b."""
    known = _read(directory)
    now = {name: _sum(directory / name, known.get(name)) for name in _names(directory)}
    if now != known:
        write_atomic(directory / SUMS, canonical_json(now))
    return {name: str(entry[2]) for name, entry in now.items()}


def forget(directory: Path) -> None:
    """Drop the saved hashes, so that the next `remember` reads every file."""
    (directory / SUMS).unlink(missing_ok=True)


def _names(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in files_below(directory) if path.name != SUMS]


def _sum(path: Path, known: list[int | str] | None) -> list[int | str]:
    state = path.stat()
    if known is not None and known[:2] == [state.st_size, state.st_mtime_ns]:
        return known
    return [state.st_size, state.st_mtime_ns, digest_file(path)]


def _read(directory: Path) -> Sums:
    """Return the saved hashes; nothing if there is no such file or a power cut left it damaged."""
    try:
        return read_object(directory / SUMS)
    except (FileNotFoundError, UserError):
        return {}
