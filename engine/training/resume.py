"""The checkpoints of a training run on disk: written atomically, verified when read, the last two kept."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.artifacts.files import digest_bytes, fsync_directory, write_synced
from engine.errors import UserError
from engine.remedy import command
from engine.training.position import CLOSE, META, RESUME, Event, sentences

KEEP = 2
STATE = "state.safetensors"
WORK = ".work"
"""The folder of a profile's data in which stages work: <stage>/<key>/ below it."""
CLOSE_TO_IT = {"torch", "cpu", "processor", "device"}
"""The parts of the numerics that may differ with `close`."""
PARAMETERS = {"threads", "dtype"}
"""The parts that are parameters: they differ only in work adopted from another key, and the past names them."""


@dataclass(frozen=True)
class Saved:
    """A verified checkpoint: completed steps, tensors by name and their digest, the history up to it.

    `worlds` says how many ranks made it: (first step, ranks), in order; `past` what makes its bits differ from those of
    an undisturbed run (engine/training/position.py); `fingerprint` the numerics under which it was made.
    """

    step: int
    tensors: dict[str, Tensor]
    digest: str
    history_bytes: int
    worlds: list[tuple[int, int]]
    past: list[Event]
    fingerprint: dict[str, Any]


class Damaged(Exception):
    """A file does not hold what was written; the message names it."""


class CheckpointStore:
    """The checkpoints of one run, under `directory`, tied to its history file.

    Only the first rank calls `save` and `latest`; the others call `at` with the step that it found. `close` allows
    continuing with another torch or processor, which is then recorded in `past`.
    """

    def __init__(
        self, directory: Path, history: Path, fingerprint: dict[str, Any], world_size: int = 1, close: bool = False
    ) -> None:
        self.directory, self.history, self.fingerprint, self.world_size = directory, history, fingerprint, world_size
        self.close = close
        self.worlds = [(0, world_size)]
        self.past: list[Event] = []
        self.notes: list[str] = []
        """Notes of `latest` for the user: the files that it found damaged."""

    def save(self, step: int, tensors: dict[str, Tensor]) -> str:
        """Write the checkpoint after `step` completed steps; return the digest of its tensors.

        The history must hold exactly the rows of these steps, synced to disk.
        """
        final = self.directory / f"{step:08d}"
        partial = self.directory / f".{step:08d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        data = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        rows = self.history.read_bytes()
        meta = {
            "step": step,
            "digest": digest_bytes(data),
            "worlds": self.worlds,
            "history_bytes": len(rows),
            "history_digest": digest_bytes(rows),
            "fingerprint": self.fingerprint,
            "past": self.past,
        }
        write_synced(partial / STATE, data)
        write_synced(partial / META, json.dumps(meta, sort_keys=True).encode())
        fsync_directory(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        fsync_directory(self.directory)
        for old in checkpoints(self.directory)[:-KEEP]:
            shutil.rmtree(old)
        return str(meta["digest"])

    def latest(self) -> Saved | None:
        """Return the newest intact checkpoint after cutting the history to its step; None if there is none.

        Damaged checkpoints are skipped, and `notes` says so.

        Raises UserError if it was made under other numerics, since the end would not have the same bits. Another number
        of ranks is allowed (the order of the data does not depend on it); the caller reports it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for directory in reversed(checkpoints(self.directory)):
            try:
                saved = self._same(directory)
            except Damaged as error:
                self.notes.append(f"{error}; looking for an older checkpoint")
                continue
            os.truncate(self.history, saved.history_bytes)
            if saved.worlds[-1][1] != self.world_size:
                self.worlds = [*saved.worlds, (saved.step, self.world_size)]
            else:
                self.worlds = saved.worlds
            if saved.past[len(self.past) :]:
                self.notes.append(f"its end need not be that of an undisturbed training: {sentences(saved.past)}")
            self.past = saved.past
            return saved
        if self.notes:
            self.notes.append(f"no checkpoint in {self.directory} is whole: starting again from step 0")
        self.history.write_bytes(b"")
        return None

    def at(self, step: int) -> Saved:
        """Return the checkpoint of a step that the first rank has verified; UserError if it reads differently here."""
        directory = self.directory / f"{step:08d}"
        try:
            return self._same(directory)
        except Damaged as error:
            raise UserError(
                f"this rank reads other bytes than the first ({error}); is the file system shared?"
            ) from None

    def _same(self, directory: Path) -> Saved:
        """Return the checkpoint in `directory`. Raises Damaged, or UserError if it may not be continued here."""
        saved = read(directory, self.history)
        changed = {
            name: [saved.fingerprint.get(name), now]
            for name, now in self.fingerprint.items()
            if saved.fingerprint.get(name) != now
        }
        if not changed:
            return saved
        refused = {name: both for name, both in changed.items() if not (_adopted_here(saved) and name in PARAMETERS)}
        if refused and not (self.close and _is_close(refused)):
            raise UserError(_refusal(directory, refused))
        return replace(saved, past=[*saved.past, {"step": saved.step, "changed": changed}])


def checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    return sorted(path for path in directory.iterdir() if path.name.isdigit())


def read(directory: Path, history: Path) -> Saved:
    """Return the checkpoint in `directory` after verifying its bytes and the rows of its steps in `history`.

    Raises Damaged if they differ from what was written.
    """
    file = directory / META
    try:
        meta = json.loads(file.read_bytes())
        worlds = [(int(first), int(size)) for first, size in meta["worlds"]]
        step, kept, digest = int(meta["step"]), int(meta["history_bytes"]), str(meta["digest"])
        past, numerics = list(meta.get("past", [])), dict(meta.get("fingerprint", {}))
        file = history
        rows = digest_bytes(file.read_bytes()[:kept])
        file = directory / STATE
        data = file.read_bytes()
        tensors = load(data)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Damaged(f"{file} is damaged ({type(error).__name__}: {error})") from error
    if rows != meta.get("history_digest"):
        raise Damaged(f"{history} is damaged: its rows up to step {step} are not those that were written")
    if digest_bytes(data) != digest:
        raise Damaged(f"{file} is damaged: its bytes are not those that were written")
    return Saved(step, tensors, digest, kept, worlds, past, numerics)


def _adopted_here(saved: Saved) -> bool:
    """Return whether this is another key's work, whose parameters may differ: the difference is known and recorded."""
    return bool(saved.past) and "adopted" in saved.past[-1] and saved.past[-1]["step"] == saved.step


def _is_close(changed: dict[str, list[Any]]) -> bool:
    """Return whether the same program computes the same except for rounding: another torch, processor or GPU model."""
    return set(changed) <= CLOSE_TO_IT and "cpu" not in changed.get("device", [])


def _refusal(directory: Path, changed: dict[str, list[Any]]) -> str:
    """Return the message on work that began under other numerics, with the user's options."""
    names = ", ".join(f"{name} ({then}, now {now})" for name, (then, now) in sorted(changed.items()))
    stage = directory.parts[directory.parts.index(WORK) + 1] if WORK in directory.parts else None
    again = f"`{command('repro', directory, STAGE=stage, RESUME=CLOSE)}`" if stage else f"{RESUME}={CLOSE}"
    close = f"continue nevertheless with {again} (the run record will say so), " if _is_close(changed) else ""
    return (
        f"{directory}: this run began with another {names} and would not end in the same bits; restore the machine's "
        f"setting, {close}or start the stage afresh (--fresh)."
    )
