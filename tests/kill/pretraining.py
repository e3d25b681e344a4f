"""The graph's own pretrain in a scratch copy, to be stopped half way: no checkpoint is due before the end."""

from pathlib import Path
from typing import Any

import yaml

from engine.optim.schedule import Schedule
from tests.project import PROFILE, Project

STAGE, STEPS = "pretrain", 160
SCHEDULE = Schedule.warmed_up(2e-2, 4, ("constant", 136, None), ("cosine", 16, 1e-3), ("linear", 4, 3.5e-4))
KEDRO = ("kedro", "run", "--env", PROFILE, "--pipelines", STAGE)


class Pretraining:
    """The project, and what the stage ends in by its number of ranks where nothing stops it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._ends: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
        parameters = project.path / f"conf/{PROFILE}/parameters/pretrain.yml"
        content = yaml.safe_load(parameters.read_text())
        content[STAGE] |= {"schedule": SCHEDULE.model_dump(exclude_none=True, mode="json"), "checkpoint_every": STEPS}
        parameters.write_text(yaml.safe_dump(content))
        self.project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)

    def use(self, ranks: int) -> None:
        """Train in so many ranks from now on; 0: in the driver."""
        train = {"launcher": "local", "processes": ranks} if ranks else {"launcher": "inplace"}
        (self.project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump({"train": train}))

    def undisturbed(self, ranks: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Run record and outputs' digests of a run that nothing stops, in so many ranks, which are used from now on."""
        self.use(ranks)
        if ranks not in self._ends:
            self.project.run(*KEDRO)
            self._ends[ranks] = self.project.records(STAGE)[-1], self.project.digests(STAGE)
        return self._ends[ranks]


def newest(workspace: Path) -> int:
    """The step of the newest checkpoint in a workspace, or below several; 0 where there is none."""
    checkpoints = [*workspace.glob("checkpoints/0*"), *workspace.glob("*/checkpoints/0*")]
    return max((int(path.name) for path in checkpoints), default=0)
