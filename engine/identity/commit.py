"""Find the commit of files that were read, and whether they differ from it, even if the tree is edited meanwhile."""

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def commit_of(root: Path, files: Mapping[str, bytes], belongs: Callable[[str], bool]) -> dict[str, Any]:
    """Return the commit that is checked out and whether the files differ from it (`dirty`); None without a repository.

    Args:
        root: a folder in a git repository.
        files: path relative to `root` → content.
        belongs: whether a tracked path should be among them.

    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    if not commit:
        return {"commit": None, "dirty": None}
    lines = [line.split("\t", 1) for line in _git(root, "ls-tree", "-r", "-z", commit).split("\0") if line]
    tracked = {path: about.split()[2] for about, path in lines if belongs(path)}
    kind = "sha256" if len(commit) == 64 else "sha1"
    same = tracked.keys() == files.keys() and all(_blob(files[path], kind) == blob for path, blob in tracked.items())
    return {"commit": commit, "dirty": not same}


def _blob(data: bytes, kind: str) -> str:
    """Return git's object name of a file's content."""
    return hashlib.new(kind, b"blob %d\0" % len(data) + data).hexdigest()


def _git(root: Path, *words: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""  # git is needed to clone, not to run
    return result.stdout if result.returncode == 0 else ""
