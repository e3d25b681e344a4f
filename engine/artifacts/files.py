"""Files that are either wholly there or not there at all."""

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import UserError, warn

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_BLOCK = 1 << 20


def digest_bytes(data: bytes) -> str:
    """blake2b of `data`, 32 hex digits: the content hash used everywhere."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """blake2b of a file's content, read in blocks so that memory stays flat."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON form that is hashed and stored: sorted keys, two spaces, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_object(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """Return the JSON object in a file that this pipeline wrote.

    Args:
        path: the file.
        remedy: what heals a damaged one; else it is removed, since what wrote it writes it again.

    Raises:
        UserError: it is empty, torn, no JSON or no object.
        FileNotFoundError: it is not there.

    """
    data = path.read_bytes()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = f"is damaged and no JSON ({error})" if data.strip() else "is empty"
    else:
        if isinstance(found, dict):
            return found
        what = f"holds a JSON {type(found).__name__} and no object"
    raise UserError(f"{path} {what}: {remedy or f'remove it (`rm {path}`) and run the same command again'}.")


def object_if_sound(path: Path, remedy: str | None = None) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is no such file, and, with a warning, where it is damaged."""
    try:
        return read_object(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UserError as damage:
        warn(str(damage))
        return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file, without a last one that was cut or is still being written.

    Raises:
        UserError: a row is damaged.

    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            if not line.endswith(b"\n"):
                break
            raise UserError(f"{path}, line {number}, is damaged ({error}): remove that line.") from error
    return rows


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a kill, sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    write_synced(partial, data)
    os.replace(partial, path)
    fsync_directory(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until it is on the disc."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(directory: Path) -> Iterator[Path]:
    """All regular files below `directory`, in a fixed order."""
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def fsync_tree(directory: Path) -> None:
    """Make every file below `directory` durable before it is published."""
    for path in files_below(directory):
        fsync_file(path)
    fsync_directory(directory)


def exchange(a: Path, b: Path) -> bool:
    """Swap two existing paths in one step (Linux RENAME_EXCHANGE). False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return int(done) == 0


def publish(source: Path, target: Path) -> None:
    """Put the finished directory `source` at `target` whole; what stood there before is removed afterwards.

    Both must lie on one file system. Killed at any moment, `target` is the old directory or the new one
    (where the file system has no exchange, for an instant it stands aside as `.old`; `heal` brings it back).
    """
    publish_all({target: source})


def publish_all(ready: dict[Path, Path]) -> None:
    """Put finished directories and files (target → source) in place: all of them, or none where one cannot be.

    What stood there is removed when all are in place; where one cannot be, what stood there is put back and every
    source is where it was. Killed in between, each target is wholly the old or the new one.
    """
    for source in ready.values():
        fsync_tree(source) if source.is_dir() else fsync_file(source)
    swapped: list[Path] = []
    try:
        for target, source in ready.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            heal(target)
            _swap(source, target)
            swapped.append(target)
    except OSError:
        for target in reversed(swapped):
            _swap(ready[target], target) if ready[target].exists() else os.rename(target, ready[target])
        raise
    for target, source in ready.items():
        if source.exists():  # the older one
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        fsync_directory(target.parent)


def _swap(source: Path, target: Path) -> None:
    """Put `source` at `target`, and at `source` what stood there, if anything did."""
    if not target.exists():
        os.rename(source, target)
    elif not exchange(source, target):
        aside = _aside(target)
        os.rename(target, aside)
        os.rename(source, target)
        os.rename(aside, source)


def heal(target: Path) -> None:
    """Undo a publish that was killed between its two renames."""
    aside = _aside(target)
    if not aside.exists():
        return
    if target.exists():
        shutil.rmtree(aside)
    else:
        os.rename(aside, target)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")
