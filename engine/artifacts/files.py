"""Read and write files that are either complete or absent, never half written."""

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
    """Return the blake2b digest of `data`, 32 hex digits: the content hash used everywhere."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Return the blake2b digest of a file's content, read in blocks so that memory stays flat."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form that is hashed and stored: sorted keys, indent 2, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_object(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """Return the JSON object in a file that this pipeline wrote.

    Args:
            path: the file.
            remedy: what the user does about a damaged file; by default: remove it, since a rerun writes it again.

    Raises:
            UserError: the file is empty, cut off, not JSON or not an object.
            FileNotFoundError: there is no such file.

    """
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        problem = f"is damaged and not JSON ({error})" if data.strip() else "is empty"
    else:
        if isinstance(content, dict):
            return content
        problem = f"holds a JSON {type(content).__name__} and not an object"
    raise UserError(f"{path} {problem}: {remedy or f'remove it (`rm {path}`) and run the same command again'}.")


def object_if_sound(path: Path, remedy: str | None = None) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if the file is missing or, with a warning, if it is damaged."""
    try:
        return read_object(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UserError as damage:
        warn(str(damage))
        return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file, leaving out a last line that was cut or is still being written.

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
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part, even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    write_synced(partial, data)
    os.replace(partial, path)
    fsync_directory(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` durable by an fsync of the directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(directory: Path) -> Iterator[Path]:
    """Yield all regular files below `directory`, sorted by path."""
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def fsync_tree(directory: Path) -> None:
    """Make every file below `directory` durable before it is published."""
    for path in files_below(directory):
        fsync_file(path)
    fsync_directory(directory)


def exchange(a: Path, b: Path) -> bool:
    """Swap two existing paths in one step (Linux RENAME_EXCHANGE); return False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return int(done) == 0


def publish(source: Path, target: Path) -> None:
    """Move the finished directory `source` to `target` in one step and remove the previous content of `target`.

    Both must be on one file system. If the process is killed at any moment, `target` is the old directory or the new
    one. Where the file system cannot exchange, the old one may be left as `.old`, from which `heal` restores it.
    """
    publish_all({target: source})


def publish_all(ready: dict[Path, Path]) -> None:
    """Move finished directories and files (target → source) into place: all of them, or none if one cannot be moved.

    The previous contents are removed once all are in place; if one move fails, the previous contents and all sources
    are put back. If the process is killed in between, each target is completely the old or the new one.
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
        if source.exists():  # after the swap this is the previous content
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        fsync_directory(target.parent)


def _swap(source: Path, target: Path) -> None:
    """Move `source` to `target`, and the previous content of `target`, if any, to `source`."""
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
