"""`make clean`: remove caches and finished work, and print their sizes. Artifacts, records and resumable work stay.

Folders behind a link may belong to others, so they stay too. This module runs on the bare interpreter and imports
nothing else of the project.
"""

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHES = (".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", ".dvc/tmp")
SKIP = {".venv", ".git", "data"}


def main() -> None:
    """Remove caches and finished work, and print each folder with its size."""
    total = 0
    for path in [*caches(), *finished_work()]:
        if not is_own(path):
            print(f"   left alone  {path.relative_to(ROOT)}, which is reached by a link")
            continue
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        total += size
        shutil.rmtree(path)
        print(f"{size / 1e6:9.1f} MB  {path.relative_to(ROOT)}")
    print(f"{total / 1e6:9.1f} MB  removed; artifacts, run records and work that can be resumed were left")


def is_own(path: Path) -> bool:
    """Return whether no part of the path below the repository is a link."""
    return path.resolve() == ROOT.resolve() / path.relative_to(ROOT)


def caches() -> list[Path]:
    """Return the folders of tool caches and byte code, outside the environment and the data."""
    folders = [ROOT / name for name in CACHES if (ROOT / name).is_dir()]
    for top in ROOT.iterdir():
        if top.is_dir() and not top.is_symlink() and top.name not in SKIP:
            folders += sorted(top.rglob("__pycache__"))
    return folders


def finished_work() -> list[Path]:
    """Return workspaces whose key has succeeded since their work began, and tables that a gate refused."""
    folders = sorted((ROOT / "data").glob("*/.rejected"))
    for begun in (ROOT / "data").glob("*/.work/*/*/begun.json"):
        workspace = begun.parent
        profile, stage = workspace.parents[2], workspace.parent.name
        started = str(_object(begun).get("started", ""))
        records = [_object(path) for path in (profile / ".runs" / stage).glob(f"{workspace.name}-*.json")]
        # Work that began after the last success belongs to a forced run: it is under way, or can be resumed.
        if started and any(r.get("outcome") == "success" and str(r.get("finished")) > started for r in records):
            folders.append(workspace)
    return folders


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} for a damaged one, so that no work counts as finished by it."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return {}


if __name__ == "__main__":
    main()
