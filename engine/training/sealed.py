"""The files of one checkpoint on disk: sealed when they are complete, verified when read; usable without torch.

A checkpoint is a directory named by its step. meta.json says of which run it is a part; index.json which tensors it
holds, and in which file each piece of them is; rank-NNNNN.safetensors holds the pieces that one rank wrote;
manifest.json has the digest of each of these files. A directory is renamed to its name only when all of it is on disk.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts import manifest
from engine.artifacts.files import digest_bytes, files_below, fsync_directory, write_synced
from engine.errors import UserError

META, INDEX = "meta.json", "index.json"
Event = dict[str, Any]
"""An event in a training's past because of which its end may differ in bits from an undisturbed run's: at `step` it
continued with other numerics (`changed`: setting → [then, now]) or was `adopted` from another key (`differs`)."""
_SEALED_AS = {"stage": "training", "dataset": "checkpoint"}


World = tuple[int, int, str]
"""From which step on how many ranks trained, and under which layout; "" for plain data parallelism."""


@dataclass(frozen=True)
class Saved:
    """What a verified checkpoint says of itself: completed steps, the state's digest, the history up to it.

    `worlds` says which ranks made it, in order; `past` what makes its bits differ from those of an undisturbed run
    (engine/training/position.py); `fingerprint` the numerics under which it was made.
    """

    step: int
    digest: str
    history_bytes: int
    worlds: list[World]
    past: list[Event]
    fingerprint: dict[str, Any]


class Damaged(Exception):
    """A file does not hold what was written; the message names it."""


def checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    return sorted(path for path in directory.iterdir() if path.name.isdigit())


def seal(partial: Path, meta: dict[str, Any], digests: dict[str, str]) -> None:
    """Write meta.json and the manifest of a checkpoint whose other files are on disk with these digests."""
    data = json.dumps(meta, sort_keys=True).encode()
    write_synced(partial / META, data)
    manifest.seal(partial, counts={"step": meta["step"]}, digests={**digests, META: digest_bytes(data)}, **_SEALED_AS)
    fsync_directory(partial)


def digests_in(directory: Path) -> dict[str, str]:
    """Return each file's digest as a verified checkpoint's manifest has it."""
    files = manifest.read_manifest(directory, **_SEALED_AS)["files"]
    return {name: str(entry["blake2b"]) for name, entry in files.items()}


def read(directory: Path, history: Path) -> Saved:
    """Return what the checkpoint in `directory` says of itself after verifying the rows of its steps in `history`.

    Raises Damaged if meta.json or these rows are not what was written.
    """
    file = directory / META
    try:
        meta = json.loads(file.read_bytes())
        saved = Saved(
            step=int(meta["step"]),
            digest=str(meta["digest"]),
            history_bytes=int(meta["history_bytes"]),
            # checkpoints of trainings that could not be divided yet have no layout there
            worlds=[(int(first), int(size), "".join(layout)) for first, size, *layout in meta["worlds"]],
            past=list(meta["past"]),
            fingerprint=dict(meta["fingerprint"]),
        )
        file = history
        rows = digest_bytes(file.read_bytes()[: saved.history_bytes])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file} is damaged ({type(error).__name__}: {error})") from error
    if rows != meta.get("history_digest"):
        raise Damaged(f"{history} is damaged: its rows up to step {saved.step} are not those that were written")
    return saved


def verify(directory: Path, part: int | None = 0, parts: int = 1) -> None:
    """Check a checkpoint's files against its manifest: all by size, and every `parts`-th from `part` on by content.

    With `part` None no file but the manifest is read, so that it takes no longer for a large checkpoint.

    Raises Damaged if a file is missing, changed, or not one of this checkpoint's.
    """
    file = directory / manifest.MANIFEST
    try:
        files = manifest.read_manifest(directory, **_SEALED_AS)["files"]
    except UserError as error:
        raise Damaged(f"{file} is damaged or missing") from error
    _refuse_foreign(directory, {*files, manifest.MANIFEST})
    for number, name in enumerate(sorted(files)):
        if harm := manifest.harm(directory / name, files[name], content=number % parts == part):
            raise Damaged(f"{directory / name} is damaged: it {harm}")


def _refuse_foreign(directory: Path, known: Collection[str]) -> None:
    for path in files_below(directory):
        if path.relative_to(directory).as_posix() not in known:
            raise Damaged(f"{path} is damaged: it is not one of this checkpoint's files ({manifest.MANIFEST})")
