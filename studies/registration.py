"""Read a study's registration, and see whether git had it before the runs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes
from engine.checked import checked
from engine.errors import UserError
from engine.yaml_file import read_yaml
from studies.schema import Study

COMMON = "common.yml"
"""The settings that all studies start from, which are part of each registration."""


@dataclass(frozen=True)
class Registration:
    """A study as its file describes it. `digest` covers the study's file and the common settings.

    `commit` is the last one that changed either file; None while one of them is new or edited.
    """

    name: str
    study: Study
    digest: str
    commit: str | None


def names(folder: Path) -> list[str]:
    """Return the names of the registered studies, in order."""
    return sorted(path.stem for path in folder.glob("*.yml") if path.name != COMMON)


def register(folder: Path, name: str) -> Registration:
    """Read `folder`/<name>.yml over the common settings.

    Raises UserError naming the file and the field.
    """
    path = folder / f"{name}.yml"
    if name not in names(folder):
        raise UserError(f"there is no study {name!r} in {folder}: choose one of {', '.join(names(folder))}.")
    own, common = _load(path), _load(folder / COMMON)
    own["settings"] = overlay(common, own.get("settings") or {}, f"{path}: settings")
    study = checked(Study, own, str(path))
    files = [path, folder / COMMON]
    digest = digest_bytes(canonical_json([file.read_text(encoding="utf-8") for file in files]))
    return Registration(name, study, digest, _commit(files))


def overlay(base: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `base` with `changes`, key by key at every depth; UserError for a key that `base` does not have."""
    out = dict(base)
    for name, value in changes.items():
        if name not in base:
            raise UserError(f"{where}: there is no {name}; there are {', '.join(base)}.")
        both = isinstance(value, dict) and isinstance(base[name], dict)
        out[name] = overlay(base[name], value, f"{where}.{name}") if both else value
    return out


def _load(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no fields: a study needs at least {', '.join(Study.model_fields)}.")
    return content


def _commit(files: list[Path]) -> str | None:
    """Return the last commit that changed one of `files`; None if git does not have all of them as they are."""
    if _git(files, "status", "--porcelain") != "":
        return None
    return _git(files, "log", "-1", "--format=%H") or None


def _git(files: list[Path], *words: str) -> str | None:
    folder = files[0].parent
    command = ["git", "-C", str(folder), *words, "--", *(file.name for file in files)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
