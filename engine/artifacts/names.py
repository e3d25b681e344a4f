"""What a list of files that others may have written can name: regular files inside its own directory, nothing else."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_CACHED = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}$")


class BadName(ValueError):
    """A name that would lead out of its directory, or to what is no file; the message says which and why."""


def checked_names(names: Iterable[object]) -> list[str]:
    """Return the names, each relative to its directory, in parts that are neither empty nor `.` nor `..`.

    Raises:
        BadName: one is no text, absolute, leads upwards, has a backslash, a drive or a control character, or is the
            folder of another.

    """
    found = [_checked(name) for name in names]
    folders = {parent.as_posix() for name in found for parent in Path(name).parents}
    for name in found:
        if name in folders:
            raise BadName(f"{name!r} is a file and the folder of another one")
    return found


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise BadName(f"{name!r} is no name of a file")
    if set(name.split("/")) & {"", ".", ".."} or "\\" in name or name[1:2] == ":":
        raise BadName(f"{name!r} does not stay in its directory")
    if any(ord(letter) < 32 for letter in name):
        raise BadName(f"{name!r} has a control character")
    return name


def refuse_links(directory: Path, cached: bool = False) -> None:
    """Refuse a directory in which anything is neither a regular file nor a directory.

    With `cached`, a link to a file of DVC's cache is one too: `dvc config cache.type symlink` asks for them.

    Raises:
        BadName: a link, a device, a pipe or a socket; it is named.

    """
    for path in _below(directory):
        mode = path.lstat().st_mode
        if cached and stat.S_ISLNK(mode) and _CACHED.search(str(path.resolve())):
            mode = path.resolve().lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            what = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
            raise BadName(f"{path} is {what}, not a file")


def _below(directory: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        yield from (Path(folder, name) for name in sorted([*folders, *files]))


def refuse_linked_folders(directory: Path, names: Iterable[str]) -> None:
    """Refuse a directory where the folder of one of the names is a link, so that a file put there lands elsewhere.

    Raises:
        BadName: it is named.

    """
    for folder in sorted({parent for name in names for parent in Path(name).parents if parent.parts}):
        if (directory / folder).is_symlink():
            raise BadName(f"{directory / folder} is a link, not a folder")
