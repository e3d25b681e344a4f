"""Read and check kedro.yml: the stages, their groups and compute classes, and the profiles."""

from functools import cache
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from engine.checked import checked
from engine.errors import UserError
from engine.identity import snapshot
from engine.yaml_file import parse_yaml, read_text

CODE = Path(__file__).resolve().parent.parent
"""The folder of the code and configuration that this process runs: a snapshot in a stage, else the repository."""
ROOT = snapshot.root_of(CODE)
"""The repository, which holds data/."""
ComputeName = Literal["cpu", "llm", "train"]
COMPUTE_CLASSES = get_args(ComputeName)


class StageSpec(BaseModel):
    """One stage's entry in kedro.yml; `headline` names metrics that sum the stage up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str
    compute: ComputeName
    headline: tuple[str, ...] = ()


class StagesFile(BaseModel):
    """The content of kedro.yml.

    `stages` are in the order in which they run; the version of a waived distribution makes none of them stale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_profile: str
    profiles: tuple[str, ...]
    stages: dict[str, StageSpec]
    waived_distributions: tuple[str, ...] = ()

    @property
    def waived(self) -> frozenset[str]:
        """The waived distributions in lower case."""
        return frozenset(name.lower() for name in self.waived_distributions)

    def profile(self, name: str | None) -> str:
        """Return the checked name of a profile (None: the default one's)."""
        if name is None:
            return self.default_profile
        if name not in self.profiles:
            raise UserError(f"there is no profile {name!r} in kedro.yml: choose one of {', '.join(self.profiles)}.")
        return name

    def stage_name(self, name: str) -> str:
        """Return the checked name of a stage."""
        if name not in self.stages:
            raise UserError(f"there is no stage {name!r} in kedro.yml: choose one of {', '.join(self.stages)}.")
        return name

    def stage(self, name: str) -> StageSpec:
        """Return the entry of a stage."""
        return self.stages[self.stage_name(name)]

    def module(self, stage: str) -> str:
        """Return the module that lists a stage's nodes."""
        return f"pipelines.stages.{self.stage_name(stage)}"


def parse_stages_file(text: str, path: str = "kedro.yml") -> StagesFile:
    """Parse and check the text of kedro.yml.

    Raises:
        UserError: malformed YAML, a missing or unknown field, an unknown compute class.

    """
    return checked(StagesFile, parse_yaml(text, path), path)


@cache
def load_stages_file() -> StagesFile:
    """Return the content of the repository's own kedro.yml."""
    return parse_stages_file(read_text(CODE / "kedro.yml", "kedro.yml"))
