"""Read and check kedro.yml: the stages, their groups and compute classes, and the profiles."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.identity import snapshot
from engine.yaml_file import parse_yaml, read_text

CODE = Path(__file__).resolve().parent.parent
"""The folder of the code and configuration that this process runs: a snapshot in a stage, else the repository."""
ROOT = snapshot.root_of(CODE)
"""The repository, which holds data/."""
COMPUTE_CLASSES = ("cpu", "llm", "train")
_FIELDS, _OPTIONAL = {"group", "compute"}, {"headline"}


@dataclass(frozen=True)
class StageSpec:
    """One stage's entry in kedro.yml."""

    name: str
    group: str
    compute: str
    headline: tuple[str, ...] = ()
    """Metrics that sum the stage up."""

    @property
    def pipeline(self) -> str:
        """The module that lists the stage's nodes."""
        return f"pipelines.stages.{self.name}"


@dataclass(frozen=True)
class StagesFile:
    """The content of kedro.yml; `stages` are in the order in which they run."""

    default_profile: str
    profiles: tuple[str, ...]
    stages: dict[str, StageSpec]
    waived: frozenset[str] = frozenset()
    """Distributions whose version makes no stage stale."""

    def profile(self, name: str | None) -> str:
        """Return the checked name of a profile (None: the default one's)."""
        if name is None:
            return self.default_profile
        if name not in self.profiles:
            raise UserError(f"there is no profile {name!r} in kedro.yml: choose one of {', '.join(self.profiles)}.")
        return name

    def stage(self, name: str) -> StageSpec:
        """Return the stage called `name`."""
        if name not in self.stages:
            raise UserError(f"there is no stage {name!r} in kedro.yml: choose one of {', '.join(self.stages)}.")
        return self.stages[name]


def parse_stages_file(text: str, path: str = "kedro.yml") -> StagesFile:
    """Parse and check the text of kedro.yml.

    Raises:
        UserError: malformed YAML, a missing or unknown field, an unknown compute class.

    """
    content = parse_yaml(text, path)
    try:
        stages = {name: _stage(name, fields, path) for name, fields in content["stages"].items()}
        return StagesFile(content["default_profile"], tuple(content["profiles"]), stages, _waived(content, path))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: the field {error} is missing or of the wrong kind: it needs default_profile, profiles and stages."
        ) from error


@cache
def load_stages_file() -> StagesFile:
    """Return the content of the repository's own kedro.yml."""
    return parse_stages_file(read_text(CODE / "kedro.yml", "kedro.yml"))


def _stage(name: str, fields: dict[str, Any], path: str) -> StageSpec:
    if set(fields) - _OPTIONAL != _FIELDS:
        raise UserError(
            f"{path}: stage {name} has the fields {sorted(fields)}; it needs exactly {sorted(_FIELDS)} "
            f"and may have {', '.join(_OPTIONAL)}."
        )
    if fields["compute"] not in COMPUTE_CLASSES:
        raise UserError(
            f"{path}: stage {name}, field compute: {fields['compute']!r} is no compute class; "
            f"choose one of {', '.join(COMPUTE_CLASSES)}."
        )
    headline = fields.get("headline", [])
    if not isinstance(headline, list) or not all(isinstance(metric, str) for metric in headline):
        raise UserError(
            f"{path}: stage {name}, field headline: {headline!r} is no list of metrics; write [documents, bytes]."
        )
    return StageSpec(name, **{**fields, "headline": tuple(headline)})


def _waived(content: dict[str, Any], path: str) -> frozenset[str]:
    names = content.get("waived_distributions") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: waived_distributions is {names!r}; it needs a list of names, such as [rich, click].")
    return frozenset(name.lower() for name in names)
