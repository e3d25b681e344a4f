"""A profile's dvc.lock, which lists the current files, read and checked in one place."""

import re
from pathlib import Path
from typing import Any

from engine import remedy
from engine.errors import UserError
from engine.yaml_file import read_yaml
from pipelines import graph

SCHEMA = "2.0"
_ITEM: dict[str, type] = {"path": str, "md5": str, "hash": str, "size": int, "nfiles": int, "isexec": bool}
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


def ledger_path(profile: str) -> Path:
    """Return the path of a profile's dvc.lock, which is beside its dvc.yaml."""
    return graph.dvc_file(profile).with_suffix(".lock")


def read_ledger(profile: str) -> dict[str, Any]:
    """Return the stages in a profile's dvc.lock; none where there is no such file.

    Raises:
        UserError: the file is damaged: cut short, no YAML, in the middle of a merge, or not what DVC writes.

    """
    path = ledger_path(profile)
    if not path.is_file():
        return {}
    shown = path.relative_to(graph.root()).as_posix()
    try:
        return _stages(read_yaml(path, shown), shown)
    except UserError as error:
        problem = str(error).rpartition(": ")[0]  # the remedy after it is for files that people write
        raise UserError(
            f"{problem}: `{remedy.command('mend', profile)}` moves it aside and `{remedy.command('repro', profile)}` "
            f"writes it anew; in a merge, `git checkout --theirs {shown}` takes one side."
        ) from None


def check_ledger(profile: str) -> None:
    """Refuse a damaged dvc.lock, or a dvc.yaml that is no YAML, before DVC refuses it in words of its own.

    Raises UserError, which names the remedy.
    """
    view = graph.dvc_file(profile)
    try:
        read_yaml(view, view.relative_to(graph.root()).as_posix())
    except UserError as error:
        raise UserError(f"{str(error).rpartition(': ')[0]}: `make views` writes it anew.") from None
    read_ledger(profile)


def _stages(content: Any, shown: str) -> dict[str, Any]:
    """Return the stages, after checking what DVC itself checks of them."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{shown} does not begin as DVC's ledger (schema: '{SCHEMA}'): mend it.")
    stages = content.get("stages", {})
    if not isinstance(stages, dict):
        raise UserError(f"{shown} has no mapping of stages: mend it.")
    for name, stage in stages.items():
        if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str | list):
            raise UserError(f"{shown}, stage {name}, has no command: mend it.")
        for kind in ("deps", "outs"):
            items = stage.get(kind, [])
            if not isinstance(items, list) or not all(_is_item(item) for item in items):
                raise UserError(f"{shown}, stage {name}, has no whole list of {kind}: mend it.")
    return stages


def _is_item(item: Any) -> bool:
    """Return whether `item` is an entry for a file or folder, as DVC writes them."""
    if not isinstance(item, dict) or "path" not in item:
        return False
    if not _MD5.fullmatch(str(item.get("md5", "0" * 32))):
        return False
    return all(type(value) is _ITEM.get(name, type(value)) for name, value in item.items())
