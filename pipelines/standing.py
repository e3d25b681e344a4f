"""A stage's standing under a key: its outputs are there, or are kept and can be recalled, or it has to run.

The plan and a stage that DVC has started both use this module, so that they agree.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.artifacts import files, kept, manifest, store
from engine.errors import UserError
from pipelines import graph, restore

Record = dict[str, Any]
ASIDE = "recalled"
"""The folder of a stage's workspace with outputs that are being recalled; any other work there is resumed."""


@dataclass(frozen=True)
class Standing:
    """The standing of a stage under a key.

    Attributes:
        record: the good run under this key; None if there is none.
        harm: what is wrong with the present outputs, in words; None if they are what that run left.
        lost: the name of an output that is neither there whole nor kept; None if there is none.

    """

    record: Record | None = None
    harm: str | None = None
    lost: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether all outputs of the key are there."""
        return self.record is not None and self.harm is None

    @property
    def comes_back(self) -> bool:
        """Whether outputs are missing or damaged, but all are kept."""
        return self.record is not None and self.harm is not None and self.lost is None

    @property
    def then(self) -> str:
        """The time at which the run ended, to the minute."""
        return str(self.record["finished"])[:16].replace("T", " ") if self.record else "never"


def standing(profile: str | None, key: str | None, good: list[Record], *, read: bool) -> Standing:
    """Return the standing of a stage under a key, by its good runs, oldest first.

    Args:
        profile: the profile's name; None for the default one.
        key: the stage's key of today; None if it is not known.
        good: what `good_records` returned.
        read: check every byte; else sizes, and the bytes of files touched since the run.

    """
    earlier = [run for run in good if run["key"] == key]
    for run in reversed(earlier):
        if harm_of(profile, run, read=read) is None:
            return Standing(run)
    if not earlier:
        return Standing()
    return Standing(earlier[-1], harm_of(profile, earlier[-1], read=read), _lost(profile, earlier[-1], read))


def goes_on(workspace: Path) -> bool:
    """Return whether the workspace holds unfinished work, which is resumed whatever was made before."""
    return workspace.is_dir() and not (workspace / ASIDE).is_dir()


def harm_of(profile: str | None, record: Record, *, read: bool) -> str | None:
    """Return what is wrong with the present outputs, compared with those that a run left; None if nothing is."""
    harms = (harm_of_output(profile, record, str(name), read) for name in record["outputs"])
    return next((harm for harm in harms if harm), None)


def harm_of_output(profile: str | None, record: Record, name: str, read: bool) -> str | None:
    """Return what is wrong with one output; None if it is whole and what the run left."""
    digest = graph.digest_of(profile, name)
    if digest is None:
        return f"{name} is not there"
    if digest != record["outputs"][name]:
        return f"{name} is not what the last run left"
    path = graph.dataset_path(profile, name)
    try:
        if graph.is_by_hash(profile, name):
            store.check(graph.payload_store(profile) / digest, stage=record["stage"], dataset=path.name, read=read)
        elif path.suffix != ".json":
            manifest.verify(path, stage=record["stage"], dataset=path.name, since=_since(record, read))
    except UserError as error:
        return f"{name} is damaged: {getattr(error, 'what', error)}"
    return None


def _since(record: Record, read: bool) -> float | None:
    """Return the time from which a file must have been left alone for its bytes to count as the run's own."""
    return None if read else datetime.fromisoformat(record["finished"]).timestamp()


def _lost(profile: str | None, record: Record, read: bool) -> str | None:
    """Return the first output that is neither there whole nor kept; None if there is none."""
    for name in record["outputs"]:
        if harm_of_output(profile, record, name, read) and not _is_kept(profile, record, name, read):
            return str(name)
    return None


def _is_kept(profile: str | None, record: Record, name: str, read: bool) -> bool:
    digest, path = record["outputs"][name], graph.dataset_path(profile, name)
    if path.suffix == ".json":
        return bool(files.digest_bytes(files.canonical_json(record["metrics"])) == digest)
    version = graph.payload_store(profile) / digest
    try:
        if graph.is_by_hash(profile, name):
            store.check(version, stage=record["stage"], dataset=path.name, read=read)
        else:
            kept.check(version, stage=record["stage"], dataset=path.name, since=_since(record, read))
    except UserError:
        return can_be_healed(profile, record, name)
    return True


def can_be_healed(profile: str | None, record: Record, name: str) -> bool:
    """Return whether DVC's cache has the files of an output that is in its place, but damaged, as are the kept ones."""
    here = graph.digest_of(profile, name) == record["outputs"][name]
    return here and not graph.is_by_hash(profile, name) and restore.in_cache(profile, name)
