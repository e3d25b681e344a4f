"""The checkpoints of a training run: which one it continues from, under which conditions, and how many are kept."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.artifacts.files import digest_bytes, fsync_directory
from engine.errors import UserError
from engine.parallel import data
from engine.parallel.layout import WHOLE, Grid, Layout
from engine.remedy import command
from engine.training.position import CLOSE, RESUME, sentences
from engine.training.saving import InBackground, Staged, State, read_pieces
from engine.training.sealed import Damaged, Event, Saved, World, checkpoints, read, seal, verify

KEEP = 2
WORK = ".work"
"""The folder of a profile's data in which stages work: <stage>/<key>/ below it."""
CLOSE_TO_IT = {"torch", "cpu", "processor", "device", "cuda", "triton"}
"""The parts of the numerics that may differ with `close`."""
ABSENT = "none"
"""What a setting was that is recorded only where it is used."""
PARAMETERS = {"threads", "dtype"}
"""The parts that are parameters: they differ only in work adopted from another key, and the past names them."""


class CannotResume(UserError):
    """The work that is there cannot be gone on with as it is; the message has the user's options."""


class CheckpointStore:
    """The checkpoints of one run, under `directory`, tied to its history file, which the first rank writes.

    All ranks of `grid` call its methods together; their `layout` is recorded. `close` allows continuing with another
    torch or processor, which is then recorded in `past`. As a context it ends only when no checkpoint is being written
    any more.
    """

    def __init__(
        self,
        directory: Path,
        history: Path,
        fingerprint: dict[str, Any],
        grid: Grid,
        close: bool = False,
        layout: Layout = WHOLE,
    ) -> None:
        self.directory, self.history, self.fingerprint, self.grid = directory, history, fingerprint, grid
        self.close = close
        self.world = grid.ranks, layout.stated
        self.worlds: list[World] = [(0, *self.world)]
        self.past: list[Event] = []
        self.notes: list[str] = []
        """Notes of `latest` for the user, on what it found damaged among others."""
        self._damages: dict[str, str] = {}
        self.digest = ""
        """The digest of the newest state that is on disk, on the first rank."""
        self._group = data.second_group()
        self._pending: InBackground[str] | None = None

    def save(self, state: State) -> None:
        """Copy this rank's part of a state and begin to write it; wait first until the checkpoint before is written.

        The history must hold exactly the rows of the state's steps, synced to disk. Raises UserError if the one before
        could not be written.
        """
        self.wait()
        staged, step = Staged(state, self.grid), state.step
        meta = {
            "step": step,
            "worlds": list(self.worlds),
            "history_bytes": self.history.stat().st_size if data.ranks().first else 0,
            "fingerprint": self.fingerprint,
            "past": list(self.past),
        }
        self._pending = InBackground(lambda: self._write(staged, meta))

    def wait(self) -> None:
        """Wait until the checkpoint that is being written, if any, is on disk; raises UserError if it cannot be."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.digest = pending.wait()

    def check(self) -> None:
        """Raise UserError at once if the checkpoint that was being written could not be; do not wait for it."""
        if self._pending is not None and self._pending.failed:
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait as `wait` does; an error of the block is the one that is raised."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise

    def _write(self, staged: Staged, meta: dict[str, Any]) -> str:
        """Write a checkpoint; on the first rank make it visible by a rename and return its digest, "" elsewhere."""
        name = f"{meta['step']:08d}"
        partial, final = self.directory / f".{name}.partial", self.directory / name
        digest, files = staged.write(partial, self._group)
        if not data.ranks().first:
            return ""
        with self.history.open("rb") as file:
            rows = file.read(meta["history_bytes"])
        seal(partial, {**meta, "digest": digest, "history_digest": digest_bytes(rows)}, files)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        fsync_directory(self.directory)
        self._damages.pop(name, None)
        self._prune(meta["step"])
        return digest

    def _prune(self, newest: int) -> None:
        """Remove all checkpoints but the `KEEP` latest whole ones up to the step `newest`.

        A damaged one, without which the training went on, must not stand in the place of a whole one.
        """
        present = checkpoints(self.directory)
        kept = [path for path in present if int(path.name) <= newest and path.name not in self._damages][-KEEP:]
        for path in present:
            if path not in kept:
                shutil.rmtree(path)

    def latest(self) -> Saved | None:
        """Return the newest intact checkpoint; None if there is none, and then the history is emptied.

        Damaged checkpoints are skipped as long as an older one is whole, and `notes` says so.

        Raises CannotResume if all are damaged, since what took hours is never dropped unasked; or if it was made under
        other numerics, since the end would not have the same bits. Another number of ranks is allowed (the order of the
        data does not depend on it); the caller reports it.
        """
        first = data.ranks().first
        if first:
            self.directory.mkdir(parents=True, exist_ok=True)
        for name in data.from_first([path.name for path in reversed(checkpoints(self.directory))] if first else []):
            saved = self._examined(self.directory / name)
            if saved is None:
                continue
            self.worlds = list(saved.worlds)
            if saved.worlds[-1][1:] != self.world:
                self.worlds.append((saved.step, *self.world))
            if saved.past[len(self.past) :]:
                self.notes.append(f"its end need not be that of an undisturbed training: {sentences(saved.past)}")
            self.past, self.digest = saved.past, saved.digest
            return saved
        if self._damages:
            raise CannotResume(
                f"no checkpoint in {self.directory} is whole: {'; '.join(self._damages.values())}; put these files "
                "back as they were, or start the stage afresh (--fresh), which drops its work."
            )
        if first:
            self.history.write_bytes(b"")
        return None

    def load(self, saved: Saved, state: State) -> None:
        """Give a state the tensors of a checkpoint that `latest` returned, and cut the history to its step.

        Raises UserError on all ranks, with nothing changed on one that refuses, if it is of another model or optimizer.
        """
        directory, refusal = self.directory / f"{saved.step:08d}", ""
        tensors = read_pieces(directory, state, self.grid, self._group)
        try:
            state.load(saved.step, tensors, f"the checkpoint of step {saved.step} in {self.directory}")
        except UserError as error:
            refusal = str(error)
        data.refuse_everywhere(refusal)
        if data.ranks().first:
            os.truncate(self.history, saved.history_bytes)
        data.from_first(None)  # so that no rank reads the rows of the steps that are made anew

    def _examined(self, directory: Path) -> Saved | None:
        """Return a checkpoint that is whole and may be continued here; None, with a note, if it is damaged.

        The ranks share the reading of its files. Raises CannotResume on all ranks if it may not be continued on one,
        and UserError if one reads it otherwise than the first.
        """
        ranks = data.ranks()
        saved, damage, refusal = self._looked_at(directory, ranks.rank, ranks.size)
        everyones = data.from_all((damage, refusal))
        if refused := next((refusal for _, refusal in everyones if refusal), ""):
            raise CannotResume(refused)
        damages = {rank: damage for rank, (damage, _) in enumerate(everyones) if damage}
        if not damages:
            return saved
        rank, damage = next(iter(damages.items()))
        if rank and not data.from_first(self._looked_at(directory, 0, 1)[1] if ranks.first else ""):
            raise UserError(
                f"rank {rank} reads other bytes than the first, which finds them whole ({damage}); see that both have "
                "the same file system there, and run the same command again"
            )
        self.notes.append(f"{damage}; looking for an older checkpoint")
        self._damages[directory.name] = damage
        return None

    def _looked_at(self, directory: Path, part: int, parts: int) -> tuple[Saved | None, str, str]:
        """Return the checkpoint in `directory`, after reading a part of its files; else what is damaged, or refused."""
        try:
            verify(directory, part, parts)
            return self._same(directory), "", ""
        except Damaged as error:
            return None, str(error), ""
        except UserError as error:
            return None, "", str(error)

    def _same(self, directory: Path) -> Saved:
        """Return the checkpoint in `directory`. Raises Damaged, or UserError if it may not be continued here."""
        saved = read(directory, self.history)
        then, now = saved.fingerprint, self.fingerprint
        both = {name: [then.get(name, ABSENT), now.get(name, ABSENT)] for name in {**then, **now}}
        changed = {name: values for name, values in both.items() if values[0] != values[1]}
        if not changed:
            return saved
        refused = {name: both for name, both in changed.items() if not (_adopted_here(saved) and name in PARAMETERS)}
        if refused and not (self.close and _is_close(refused)):
            raise UserError(_refusal(directory, refused))
        return replace(saved, past=[*saved.past, {"step": saved.step, "changed": changed}])


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
    setting = "the field layout.fp8_storage of compute.yml" if "fp8_storage" in changed else "the machine's setting"
    return (
        f"{directory}: this run began with another {names} and would not end in the same bits; restore {setting}, "
        f"{close}or start the stage afresh (--fresh)."
    )
