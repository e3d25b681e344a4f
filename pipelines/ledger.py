"""A profile's dvc.lock, which lists the current files, read and checked in one place."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, ValidationError

from engine import remedy
from engine.errors import UserError
from engine.yaml_file import read_yaml
from pipelines import graph

Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]


class Item(BaseModel):
    """An entry for a file or folder, as DVC writes them."""

    path: str
    hash: str = ""
    md5: Md5 = "0" * 32
    size: StrictInt = 0
    nfiles: StrictInt = 0
    isexec: StrictBool = False


class LockedStage(BaseModel):
    """A stage in dvc.lock."""

    cmd: str | list[str]
    deps: list[Item] = []
    outs: list[Item] = []


class Ledger(BaseModel):
    """The content of dvc.lock; fields that are not named here are DVC's own affair."""

    version: Literal["2.0"] = Field(alias="schema")
    stages: dict[str, LockedStage] = {}


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
    try:
        Ledger.model_validate(content)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        subject = f"{shown}, field {field}," if field else shown
        raise UserError(f"{subject} is not as DVC writes it: mend it.") from None
    return dict(content.get("stages", {}))
