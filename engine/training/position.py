"""How far an unfinished training has got, and what its checkpoints say about its past; readable without torch."""

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
"""The folder of a training's checkpoints, and the file in each with its step."""
RESUME, CLOSE = "K2_RESUME", "close"
"""The variable that allows a training to continue with another torch or processor, and its only value."""
Event = dict[str, Any]
"""An event in a training's past because of which its end may differ in bits from an undisturbed run's: at `step` it
continued with other numerics (`changed`: setting → [then, now]) or was `adopted` from another key (`differs`)."""


@dataclass(frozen=True)
class Position:
    """The step of the newest checkpoint, and the number of steps; `steps` is None if no heartbeat has it."""

    step: int
    steps: int | None
    past: tuple[Event, ...] = ()

    def __str__(self) -> str:
        return f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else "")


def position(workspace: Path) -> Position | None:
    """Return where the training in a stage's workspace would continue; None if it left no checkpoint."""
    folder = left_by_training(workspace, CHECKPOINTS)
    metas = [path for path in folder.glob(f"*/{META}") if path.parent.name.isdigit()] if folder else []
    if not metas:
        return None
    newest = max(metas, key=lambda path: path.parent.name)
    beat = left_by_training(workspace, HEARTBEAT)
    heartbeat = object_if_sound(beat) if beat else None
    past = (object_if_sound(newest) or {}).get("past", [])
    return Position(int(newest.parent.name), int(heartbeat["steps"]) if heartbeat else None, tuple(past))


def sentences(past: Sequence[Event]) -> str:
    """Return what a reader should know about a result's training past; "" if there is nothing."""
    return "; ".join(
        f"adopted work of key {event['adopted']} at step {event['step']}"
        if "adopted" in event
        else f"resumed at step {event['step']} with another {_changes(event['changed'])}"
        for event in past
    )


def _changes(changed: dict[str, list[Any]]) -> str:
    return ", ".join(f"{name} ({then} → {now})" for name, (then, now) in sorted(changed.items()))


def close_is_enough() -> bool:
    """Return whether the user allows a training to continue with another torch or processor.

    Raises UserError if the variable has any value but `close`.
    """
    word = os.environ.get(RESUME, "")
    if word not in {"", CLOSE}:
        raise UserError(f"{RESUME}={word} is unknown: leave it out to end in the same bits, or set {RESUME}={CLOSE}.")
    return word == CLOSE
