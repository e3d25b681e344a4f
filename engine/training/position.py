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
from engine.training.sealed import META, Damaged, Event, checkpoints, verify

CHECKPOINTS = "checkpoints"
"""The folder of a training's checkpoints."""
RESUME, CLOSE = "K2_RESUME", "close"
"""The variable that allows a training to continue with another torch or processor, and its only value."""


@dataclass(frozen=True)
class Position:
    """The step of the newest whole checkpoint, and the number of steps; `steps` is None if no heartbeat has it."""

    step: int
    steps: int | None
    past: tuple[Event, ...] = ()

    def __str__(self) -> str:
        return f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else "")


def position(workspace: Path) -> Position | None:
    """Return where the training in a stage's workspace would continue; None if it left no whole checkpoint.

    Files are judged by their sizes: a checkpoint whose bytes have changed is only found out when it is read.
    """
    folder = left_by_training(workspace, CHECKPOINTS)
    newest = next((path for path in reversed(checkpoints(folder) if folder else []) if _looks_whole(path)), None)
    if newest is None:
        return None
    beat = left_by_training(workspace, HEARTBEAT)
    heartbeat = object_if_sound(beat) if beat else None
    past = (object_if_sound(newest / META) or {}).get("past", [])
    return Position(int(newest.name), int(heartbeat["steps"]) if heartbeat else None, tuple(past))


def _looks_whole(directory: Path) -> bool:
    try:
        verify(directory, part=None)
    except Damaged:
        return False
    return True


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
