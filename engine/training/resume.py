"""Progress of a training run on disc: checkpoints written whole, verified when read, the last two kept."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.artifacts.files import digest_bytes, fsync_directory, write_synced
from engine.errors import UserError
from engine.training.position import META

KEEP = 2
STATE = "state.safetensors"


@dataclass(frozen=True)
class Saved:
    """A verified checkpoint: completed steps, tensors by name and their digest, the history up to it.

    `worlds` tells how many ranks made it: (step from which on, ranks), in order.
    """

    step: int
    tensors: dict[str, Tensor]
    digest: str
    history_bytes: int
    worlds: list[tuple[int, int]]


class Damaged(Exception):
    """A file does not hold what was written; the message names it."""


class Progress:
    """The checkpoints of one run, under `directory`, tied to its history file.

    Of all ranks the first alone calls `save` and `latest`; the others read `at` the step that it found.
    """

    def __init__(self, directory: Path, history: Path, fingerprint: dict[str, Any], world_size: int = 1) -> None:
        self.directory, self.history, self.fingerprint, self.world_size = directory, history, fingerprint, world_size
        self.worlds = [(0, world_size)]
        self.notes: list[str] = []
        """What `latest` has for the watcher: the files that it found damaged."""

    def save(self, step: int, tensors: dict[str, Tensor]) -> str:
        """Write the checkpoint after `step` completed steps; the digest of its tensors.

        The history must hold exactly the rows of these steps, synced.
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
        }
        write_synced(partial / STATE, data)
        write_synced(partial / META, json.dumps(meta, sort_keys=True).encode())
        fsync_directory(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        fsync_directory(self.directory)
        for old in self._steps()[:-KEEP]:
            shutil.rmtree(old)
        return str(meta["digest"])

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if path.name.isdigit())

    def latest(self) -> Saved | None:
        """The newest checkpoint whose bytes are what was written, with the history cut to its step; None to start.

        Damaged ones are passed over, and `notes` says so.

        Raises UserError where it was made under other numerics: going on would not end in the same bits. Another
        number of ranks is allowed (the order of the data does not hang on it) and for the caller to say.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for directory in reversed(self._steps()):
            try:
                saved = self._read(directory)
            except Damaged as error:
                self.notes.append(f"{error}; looking for an older checkpoint")
                continue
            os.truncate(self.history, saved.history_bytes)
            if saved.worlds[-1][1] != self.world_size:
                self.worlds = [*saved.worlds, (saved.step, self.world_size)]
            else:
                self.worlds = saved.worlds
            return saved
        if self.notes:
            self.notes.append(f"no checkpoint in {self.directory} is whole: starting again from step 0")
        self.history.write_bytes(b"")
        return None

    def at(self, step: int) -> Saved:
        """The checkpoint of a step that the first rank has verified. Raises UserError where it reads otherwise here."""
        directory = self.directory / f"{step:08d}"
        try:
            return self._read(directory)
        except Damaged as error:
            raise UserError(
                f"this rank reads other bytes than the first ({error}); is the file system shared?"
            ) from None

    def _read(self, directory: Path) -> Saved:
        """The checkpoint in `directory`. Raises Damaged, or UserError where it was made under other numerics."""
        file = directory / META
        try:
            meta = json.loads(file.read_bytes())
            worlds = [(int(first), int(size)) for first, size in meta["worlds"]]
            step, kept, digest = int(meta["step"]), int(meta["history_bytes"]), str(meta["digest"])
            file = self.history
            rows = digest_bytes(file.read_bytes()[:kept])
            file = directory / STATE
            data = file.read_bytes()
            tensors = load(data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise Damaged(f"{file} is damaged ({type(error).__name__}: {error})") from error
        if rows != meta.get("history_digest"):
            raise Damaged(f"{self.history} is damaged: its rows up to step {step} are not those that were written")
        if digest_bytes(data) != digest:
            raise Damaged(f"{file} is damaged: its bytes are not those that were written")
        made = meta.get("fingerprint", {})
        if made != self.fingerprint:
            changed = sorted(k for k in self.fingerprint if made.get(k) != self.fingerprint[k])
            raise UserError(
                f"{directory}: this run began with another {', '.join(changed)} and would not end in the same bits; "
                "start the stage afresh (--fresh) or restore the machine's setting"
            )
        return Saved(step, tensors, digest, kept, worlds)
