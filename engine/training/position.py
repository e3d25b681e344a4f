"""How far a training got that is not over, and what its checkpoints tell of its past: read without torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import object_if_sound
from engine.errors import UserError
from engine.launch.heartbeat import HEARTBEAT
from engine.training.journal import left_by_training

CHECKPOINTS, META = "checkpoints", "meta.json"
"""The folder of a training's checkpoints, and the file in each that tells its step."""
RESUME, CLOSE = "K2_RESUME", "close"
"""The variable that allows a training to go on under another torch or processor, and its only value."""
Event = dict[str, Any]
"""Something in a training's past for which its end need not have the bits of an undisturbed run: at `step` it either
went on under other numerics (`changed`: setting → [then, now]) or was `adopted`, work of that key, which `differs`."""


@dataclass(frozen=True)
class Position:
    """The step of the newest checkpoint, and of how many; `steps` is None where no heartbeat told it."""

    step: int
    steps: int | None
    past: tuple[Event, ...] = ()

    def __str__(self) -> str:
        return f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else "")


def position(workspace: Path) -> Position | None:
    """Where the training in a stage's workspace would go on; None where it left no checkpoint."""
    folder = left_by_training(workspace, CHECKPOINTS)
    found = [path for path in folder.glob(f"*/{META}") if path.parent.name.isdigit()] if folder else []
    if not found:
        return None
    newest = max(found, key=lambda path: path.parent.name)
    beat = left_by_training(workspace, HEARTBEAT)
    told = object_if_sound(beat) if beat else None
    past = (object_if_sound(newest) or {}).get("past", [])
    return Position(int(newest.parent.name), int(told["steps"]) if told else None, tuple(past))


def sentences(past: Sequence[Event]) -> str:
    """What readers of a result are told of its training's past; "" where nothing need be."""
    return "; ".join(
        f"adopted work of key {event['adopted']} at step {event['step']}"
        if "adopted" in event
        else f"resumed at step {event['step']} with another {_changes(event['changed'])}"
        for event in past
    )


def _changes(changed: dict[str, list[Any]]) -> str:
    return ", ".join(f"{name} ({then} → {now})" for name, (then, now) in sorted(changed.items()))


def close_is_enough() -> bool:
    """Whether the user allows a training to go on under another torch or processor.

    Raises UserError where the variable says anything but `close`.
    """
    word = os.environ.get(RESUME, "")
    if word not in {"", CLOSE}:
        raise UserError(f"{RESUME}={word} is unknown: leave it out to end in the same bits, or set {RESUME}={CLOSE}.")
    return word == CLOSE
