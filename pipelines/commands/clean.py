"""`make clean`: remove caches and finished work, print what and how much. Artifacts, records and resumable work stay.

What is reached by a link may be another's, so it stays too. This runs on the bare interpreter and imports nothing of
ours.
"""

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHES = (".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", ".dvc/tmp")
SKIP = {".venv", ".git", "data"}


def main() -> None:
    """Remove and report."""
    total = 0
    for path in [*caches(), *finished_work()]:
        if not is_own(path):
            print(f"   left alone  {path.relative_to(ROOT)}, which is reached by a link")
            continue
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        total += size
        shutil.rmtree(path)
        print(f"{size / 1e6:9.1f} MB  {path.relative_to(ROOT)}")
    print(f"{total / 1e6:9.1f} MB  removed; artifacts, run records and work that can go on were left")


def is_own(path: Path) -> bool:
    """Whether no part of the path below the repository is a link."""
    return path.resolve() == ROOT.resolve() / path.relative_to(ROOT)


def caches() -> list[Path]:
    """Tool caches and byte code, outside the environment and the data."""
    found = [ROOT / name for name in CACHES if (ROOT / name).is_dir()]
    for top in ROOT.iterdir():
        if top.is_dir() and not top.is_symlink() and top.name not in SKIP:
            found += sorted(top.rglob("__pycache__"))
    return found


def finished_work() -> list[Path]:
    """Workspaces whose key has succeeded since their work began, and tables that a gate refused."""
    found = sorted((ROOT / "data").glob("*/.rejected"))
    for begun in (ROOT / "data").glob("*/.work/*/*/begun.json"):
        workspace = begun.parent
        profile, stage = workspace.parents[2], workspace.parent.name
        started = str(_object(begun).get("started", ""))
        records = [_object(path) for path in (profile / ".runs" / stage).glob(f"{workspace.name}-*.json")]
        # One that began after the last success is a forced run's: it is under way, or can go on.
        if started and any(r.get("outcome") == "success" and str(r.get("finished")) > started for r in records):
            found.append(workspace)
    return found


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} of a damaged one, by which no work counts as finished."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return {}


if __name__ == "__main__":
    main()
