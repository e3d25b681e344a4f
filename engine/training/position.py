"""How far a training got that is not over: read from what it left on disc, without torch."""

from dataclasses import dataclass
from pathlib import Path

from engine.artifacts.files import object_if_sound
from engine.launch.heartbeat import HEARTBEAT
from engine.training.journal import left_by_training

CHECKPOINTS, META = "checkpoints", "meta.json"
"""The folder of a training's checkpoints, and the file in each that tells its step."""


@dataclass(frozen=True)
class Position:
    """The step of the newest checkpoint, and of how many; `steps` is None where no heartbeat told it."""

    step: int
    steps: int | None

    def __str__(self) -> str:
        return f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else "")


def position(workspace: Path) -> Position | None:
    """Where the training in a stage's workspace would go on; None where it left no checkpoint."""
    folder = left_by_training(workspace, CHECKPOINTS)
    steps = [int(path.parent.name) for path in folder.glob(f"*/{META}") if path.parent.name.isdigit()] if folder else []
    if not steps:
        return None
    beat = left_by_training(workspace, HEARTBEAT)
    told = object_if_sound(beat) if beat else None
    return Position(max(steps), int(told["steps"]) if told else None)
