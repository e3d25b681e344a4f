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

KEEP = 2
STATE, META = "state.safetensors", "meta.json"


@dataclass(frozen=True)
class Saved:
    """A verified checkpoint: completed steps, tensors by name and their digest, the history up to it, the ranks."""

    step: int
    tensors: dict[str, Tensor]
    digest: str
    history_bytes: int
    world_size: int


class Progress:
    """The checkpoints of one run, under `directory`, tied to its history file.

    Of all ranks the first alone calls `save` and `latest`; the others read `at` the step that it found.
    """

    def __init__(self, directory: Path, history: Path, fingerprint: dict[str, Any], world_size: int = 1) -> None:
        self.directory, self.history, self.fingerprint, self.world_size = directory, history, fingerprint, world_size

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
            "world_size": self.world_size,
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

        Raises UserError where it was made under other numerics: going on would not end in the same bits. Another
        number of ranks is allowed (the order of the data does not hang on it) and for the caller to say.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for directory in reversed(self._steps()):
            saved = self._read(directory)
            if saved is not None:
                os.truncate(self.history, saved.history_bytes)
                return saved
        self.history.write_bytes(b"")
        return None

    def at(self, step: int) -> Saved:
        """The checkpoint of a step that the first rank has verified. Raises UserError where it reads otherwise here."""
        directory = self.directory / f"{step:08d}"
        saved = self._read(directory)
        if saved is None:
            raise UserError(f"{directory}: this rank reads other bytes than the first; is the file system shared?")
        return saved

    def _read(self, directory: Path) -> Saved | None:
        try:
            meta = json.loads((directory / META).read_text())
            data = (directory / STATE).read_bytes()
            rows = self.history.read_bytes()[: meta["history_bytes"]]
            if digest_bytes(data) != meta["digest"] or digest_bytes(rows) != meta["history_digest"]:
                return None
            tensors = load(data)
        except (OSError, ValueError, KeyError, SafetensorError):
            return None
        if meta["fingerprint"] != self.fingerprint:
            changed = sorted(k for k in self.fingerprint if meta["fingerprint"].get(k) != self.fingerprint[k])
            raise UserError(
                f"{directory}: this run began with another {', '.join(changed)} and would not end in the same bits; "
                "start the stage afresh (--fresh) or restore the machine's setting"
            )
        step, kept = int(meta["step"]), int(meta["history_bytes"])
        return Saved(step, tensors, str(meta["digest"]), kept, int(meta["world_size"]))
