"""Keep each version of a published directory in the store as hard links: on the disk once, and there to come back.

`<store>/<digest>/` holds the published files themselves under a second name, and a copy of their manifest. When another
version takes the directory's place, those links are what is left of the version before; recalling it links its files
back. DVC's cache is not used for that: its layout is private, and `dvc gc` or a user may empty it.

A file that is written in place changes under both of its names. So kept files are read-only, every reader checks them
against the manifest, and DVC's cache, which holds a copy of its own, heals them (pipelines/restore).

DVC replaces a file that has two links by a copy whenever it commits an output, since it takes it for a link into its
cache. So a version is kept once DVC is done with it, and at the latest before another takes its place; where DVC has
made a copy all the same, the kept links follow it.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from engine.artifacts import manifest
from engine.artifacts.files import publish
from engine.artifacts.manifest import MANIFEST, content_digest
from engine.errors import UserError, warn
from engine.remedy import remake

READ_ONLY = 0o444
PARTIAL = ".{}.partial"
"""The name in the store of what a process, by its number, is about to keep."""
REFUSED = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a system answers that does not link: other file system, file of another user, too many links, no hard links."""


def keep(directory: Path, store: Path, *, stage: str, dataset: str) -> None:
    """Keep the present version of a published directory, unless the store has these very files already.

    If the process is killed at any moment, the store has the version as it was, or the new links.

    Raises:
        UserError: the directory is damaged or not of this dataset; the store is as it was.

    """
    version = store / str(content_digest(directory))
    if _has(version, directory):
        return
    partial = store / PARTIAL.format(os.getpid())
    try:
        lay_out(directory, partial)
        manifest.verify(partial, stage=stage, dataset=dataset)  # what was linked: the directory may be exchanged now
        version = store / str(content_digest(partial))
        _take_times(version, partial)
        publish(partial, version)
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(directory))) from error
    except OSError:  # perhaps because another process has kept the same version meanwhile
        if not _has(version, directory):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def keep_replaced(directory: Path, store: Path, *, stage: str, dataset: str) -> None:
    """Keep the version of a directory that is about to be replaced, if the store has none of its digest.

    A damaged one is no version to come back to, so it is not kept.
    """
    digest = content_digest(directory)
    if digest and not (store / digest).exists():
        with contextlib.suppress(UserError):
            keep(directory, store, stage=stage, dataset=dataset)


def check(version: Path, *, stage: str, dataset: str, since: float | None) -> None:
    """Check a kept version; `since` is that of `manifest.verify`.

    Raises:
        UserError: it is missing, damaged, or not of the digest that its name says.

    """
    manifest.verify(version, stage=stage, dataset=dataset, since=since)
    if content_digest(version) != version.name:
        raise UserError(f"{version} does not hold what its name says: remove it (`rm -r {version}`).")


def lay_out(source: Path, directory: Path) -> None:
    """Lay the files of a sealed directory into an emptied `directory`, as links; copies, with a warning, if refused."""
    try:
        _lay_out(source, directory, _link)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        reason = error.strerror
        warn(f"{directory.parent}: no hard links to {source} ({reason}), so its files are copied and on the disk twice")
        _lay_out(source, directory, shutil.copy2)


def _lay_out(source: Path, directory: Path, put: Callable[[Path, Path], object]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in _names(source):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # who checks the directory says what is missing
            put((source / name).resolve(), directory / name)  # DVC's cache.type symlink makes links to its cache
    shutil.copyfile(source / MANIFEST, directory / MANIFEST)


def _link(source: Path, path: Path) -> None:
    if source.stat().st_mode & 0o777 != READ_ONLY:
        source.chmod(READ_ONLY)
    os.link(source, path)


def _take_times(version: Path, links: Path) -> None:
    """Give copies that took the place of kept files, and were checked, the times of those: they are as old as the run.

    Who looks for changes since a run (`make plan`, DVC) goes by times.
    """
    for name in _names(links):
        if (version / name).is_file() and (links / name).stat().st_nlink > 1:
            state = (version / name).stat()
            os.utime(links / name, ns=(state.st_atime_ns, state.st_mtime_ns))


def _has(version: Path, directory: Path) -> bool:
    """Return whether a version was made of the present files of a directory: links to them, or copies of that time."""
    if content_digest(version) != version.name:
        return False
    try:
        return all(_state(version / name) == _state(directory / name) for name in _names(directory))
    except OSError:  # a file is missing
        return False


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _names(directory: Path) -> list[str]:
    return list(manifest.parsed(directory / MANIFEST, remake(directory))["files"])
