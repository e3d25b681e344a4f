"""Check that a list of file names, perhaps written by others, names only regular files inside its own directory."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_CACHED = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}$")


class BadName(ValueError):
    """A name leads out of its directory or is not a regular file; the message says which name and why."""


def checked_names(names: Iterable[object]) -> list[str]:
    """Return the names after checking that each is relative, without an empty part, `.` or `..`.

    Raises:
        BadName: a name is not a string, is absolute, leads upwards, contains a backslash, a drive or a control
            character, or is also the folder of another name.

    """
    checked = [_checked(name) for name in names]
    folders = {parent.as_posix() for name in checked for parent in Path(name).parents}
    for name in checked:
        if name in folders:
            raise BadName(f"{name!r} is listed as a file and as the folder of another file")
    return checked


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise BadName(f"{name!r} is not a file name")
    if set(name.split("/")) & {"", ".", ".."} or "\\" in name or name[1:2] == ":":
        raise BadName(f"{name!r} does not stay in its directory")
    if any(ord(letter) < 32 for letter in name):
        raise BadName(f"{name!r} has a control character")
    return name


def refuse_links(directory: Path, cached: bool = False) -> None:
    """Refuse a directory that contains anything but regular files and directories.

    With `cached`, links to files of DVC's cache are allowed too: `dvc config cache.type symlink` makes such links.

    Raises:
        BadName: the directory contains a link, a device, a pipe or a socket; the message names it.

    """
    for path in _below(directory):
        mode = path.lstat().st_mode
        if cached and stat.S_ISLNK(mode) and _CACHED.search(str(path.resolve())):
            mode = path.resolve().lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
            raise BadName(f"{path} is {kind}, not a file")


def _below(directory: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(directory):
        yield from (Path(folder, name) for name in sorted([*folders, *files]))


def refuse_linked_folders(directory: Path, names: Iterable[str]) -> None:
    """Refuse a directory in which the folder of one of the names is a link, since files put there would land elsewhere.

    Raises:
        BadName: a folder is a link; the message names it.

    """
    for folder in sorted({parent for name in names for parent in Path(name).parents if parent.parts}):
        if (directory / folder).is_symlink():
            raise BadName(f"{directory / folder} is a link, not a folder")
