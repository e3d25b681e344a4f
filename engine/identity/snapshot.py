"""A snapshot of the code, from which a stage's key is made and from which all of its processes import.

A process that runs a stage takes a snapshot before it makes the key, and imports only from it from then on. So do its
ranks and jobs, whenever they start: an edit or a checkout during a run affects the next run.

A snapshot is a directory with the repository's packages and configuration, named by the hash of its content, written
once and never changed. It records its repository and commit. It exists as long as a process runs from it or a workspace
holds it.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.errors import UserError
from engine.identity.commit import commit_of

FOLDER = Path("data/.snapshots")
"""The folder of a repository's snapshots."""
ORIGIN = ".snapshot.json"
"""A file in a snapshot with its repository, the commit, and whether the snapshot differs from that."""
GIVEN = "K2_SNAPSHOT"
"""Variable with the snapshot from which every process below this one runs."""
HELD = ".snapshots"
"""Folder in a workspace with a file named after each snapshot whose code has worked there."""
_CONFIGURATION = frozenset({"conf", "kedro.yml", "pyproject.toml"})
_ABOVE = frozenset({"benchmarks", "dags", "tests"})
"""Packages that no stage may import."""
_NOT_CODE = frozenset({"__pycache__", "dvc.yaml", "dvc.lock"})
_ABANDONED_SECONDS = 3600.0

Files = dict[str, bytes]


def root_of(code: Path) -> Path:
    """Return the repository of a tree of code: the one recorded in a snapshot, else the tree itself."""
    try:
        return Path(json.loads((code / ORIGIN).read_bytes())["root"])
    except FileNotFoundError:
        return code


def origin(code: Path) -> dict[str, Any]:
    """Return the commit of a tree of code and whether the code differs from it; both None if git knows no commit."""
    file = code / ORIGIN
    record = json.loads(file.read_bytes()) if file.exists() else _commit(code, _read(code))
    return {"commit": record["commit"], "dirty": record["dirty"]}


def take(root: Path) -> Path:
    """Return a snapshot of the repository `root`, which exists until this process ends.

    It is the snapshot in the variable GIVEN, or else one of the repository as it is now.
    """
    given, folder = Path(os.environ.get(GIVEN, "")), (root / FOLDER).resolve()
    if given.parent == folder and _hold(given) and _is_whole(given):
        return given
    while True:
        files = _read(root)
        files[ORIGIN] = canonical_json({"root": str(root), **_commit(root, files)})
        code = folder / _name(files)
        if not _is_whole(code):
            _write(code, files)
        if _hold(code):
            _drop_unused(folder)
            return code


def enter(root: Path) -> Path:
    """Make this process and its children import from a snapshot of the repository from now on; return the snapshot.

    Modules imported from the repository before are removed, so that the next import takes them from the snapshot.
    """
    code = take(root)
    kept = [entry for entry in sys.path if entry and Path(entry).resolve() != root]
    sys.path[:] = [str(code), *kept]
    for name in list(sys.modules):
        if _is_ours(name, code):
            del sys.modules[name]
    os.environ.update(environment(code, os.environ.get("PYTHONPATH", "")))
    return code


def environment(code: Path, path: str = "") -> dict[str, str]:
    """Return the variables that make a Python process import from `code`, whatever its working directory is.

    Args:
        code: a snapshot, or the repository.
        path: a PYTHONPATH to search after it, from which the repository itself is removed.

    """
    others = [entry for entry in path.split(os.pathsep) if entry and Path(entry).resolve() not in {code, root_of(code)}]
    return {"PYTHONPATH": os.pathsep.join([str(code), *others]), "PYTHONSAFEPATH": "1"}


def check(code: Path) -> None:
    """Refuse code that does not match its snapshot's name, and a process that has imported from elsewhere.

    Raises UserError, which names the file.
    """
    if not _is_whole(code):
        raise UserError(f"the snapshot {code} is not what it was when it was taken")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and _is_ours(name, code) and code not in Path(file).parents:
            raise UserError(f"{name} was imported from {file}, not from the snapshot {code}")


def keep_for(workspace: Path, code: Path) -> None:
    """Keep the snapshot while the workspace exists, because its jobs may start (again) when no driver runs."""
    (workspace / HELD).mkdir(exist_ok=True)
    (workspace / HELD / code.name).touch()


def is_kept_for(workspace: Path, name: str) -> bool:
    """Return whether the snapshot called `name` has worked in this workspace, under its key."""
    return bool(name) and (workspace / HELD / name).exists()


def _is_ours(module: str, code: Path) -> bool:
    return (code / module.partition(".")[0] / "__init__.py").exists()


def _read(tree: Path) -> Files:
    """Read all code and configuration of a tree: path relative to it → content."""
    files: Files = {}
    for path in _paths(tree):
        try:
            with open(path, "rb") as file:
                files[os.path.relpath(path, tree)] = file.read()
        except FileNotFoundError:
            continue  # removed a moment ago, or a broken link
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): it belongs to the code of a run.") from error
    return files


def _paths(tree: Path) -> Iterator[str]:
    packages = {path.parent.name for path in tree.glob("*/__init__.py")}
    for top in os.scandir(tree):
        if top.is_file():
            yield from [top.path] * _belongs(top.name, packages)
        elif top.name in (packages - _ABOVE) | _CONFIGURATION:
            for folder, _, names in os.walk(top.path):
                below = os.path.relpath(folder, tree)
                yield from (f"{folder}/{file}" for file in names if _belongs(f"{below}/{file}", packages))


def _belongs(path: str, packages: set[str]) -> bool:
    """Return whether a path relative to the repository is code or configuration that a stage may read."""
    parts = path.split("/")
    if len(parts) == 1:
        return path in _CONFIGURATION or path.endswith(".py")
    chosen = parts[0] in (packages - _ABOVE) | _CONFIGURATION and parts[:2] != ["conf", "local"]
    return chosen and not path.endswith(".pyc") and _NOT_CODE.isdisjoint(parts)


def _commit(root: Path, files: Files) -> dict[str, Any]:
    packages = {path.removesuffix("/__init__.py") for path in files if path.count("/") == 1}
    return commit_of(root, files, lambda path: _belongs(path, packages))


def _name(files: Files) -> str:
    return digest_bytes(canonical_json({path: digest_bytes(data) for path, data in files.items()}))


def _is_whole(code: Path) -> bool:
    """Return whether a snapshot exists and matches its name."""
    try:
        return _name({**_read(code), ORIGIN: (code / ORIGIN).read_bytes()}) == code.name
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write(code: Path, files: Files) -> None:
    """Write a snapshot, completely or not at all; another process may do the same at the same time."""
    partial = code.with_name(f".{code.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        for path, data in files.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_bytes(data)
            (partial / path).chmod(0o444)  # tracebacks lead here, and an edit should be refused
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise UserError(
            f"{code.parent} cannot be written ({error.strerror}): a stage runs from a copy of the code that is kept "
            "there. Make data/ a folder that you may write."
        ) from error
    if code.exists() and not _is_whole(code):
        shutil.rmtree(code)  # a machine that crashed may have left it damaged
    try:
        partial.rename(code)
    except OSError:
        if not code.exists():
            raise
        shutil.rmtree(partial)


def _hold(code: Path) -> bool:
    """Keep others from removing the snapshot until this process ends; return False if it is gone or about to be."""
    try:
        handle = os.open(code / ORIGIN, os.O_RDONLY)
    except FileNotFoundError:
        return False
    fcntl.flock(handle, fcntl.LOCK_SH)  # nobody closes it, so it stays locked
    return (code / ORIGIN).exists()


def _drop_unused(folder: Path) -> None:
    """Remove the snapshots from which no process runs and which no workspace holds."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            handle = os.open(path / ORIGIN, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not any(folder.parent.glob(f"*/.work/*/*/{HELD}/{path.name}")):
                (path / ORIGIN).unlink()  # first, so that a process waiting for the lock sees that it is gone
                shutil.rmtree(path)
        except BlockingIOError:
            pass  # a process runs from it, perhaps this one
        finally:
            os.close(handle)
