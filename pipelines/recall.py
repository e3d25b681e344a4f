"""What a stage has made before under the same key is not made again: it is there, or comes back.

Coming back is what DVC's run cache is for. But that leaves out stages whose outputs persist, and ours must persist,
since DVC deletes other outputs before a stage starts. So a stage that DVC starts looks itself: its run records say what
it made under which key, the files are in the store under their digest, metrics in the record. All of it is checked
against the record's digests before any of it is published; where something is gone, the stage runs.

A file that was written in place has changed in the store, too, which is linked to it (engine/artifacts/kept). Only then
DVC's cache is asked, by `dvc checkout`, for the version that dvc.lock names.

One who asks for the stage itself (`kedro run`, `dvc repro -f`, FORCE=1) wants it to run.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from engine.artifacts import files, kept, manifest, store
from engine.errors import UserError
from engine.identity.records import good_records
from pipelines import graph, restore
from pipelines.hooks import FORCED, FRESH
from pipelines.standing import ASIDE, Record, Standing, can_be_healed, goes_on, harm_of_output, standing

DVC = "DVC_STAGE"
"""In the environment of a stage that DVC has started."""


class Gone(Exception):
    """An output that was made once is kept nowhere now; names it."""


def made_before(profile: str, stage: str, key: str, workspace: Path) -> Standing:
    """Return where a stage stands that is about to run: nothing was made where the run was asked for, or goes on."""
    asked_for = DVC not in os.environ or os.environ.get(FRESH) or os.environ.get(FORCED)
    if asked_for or goes_on(workspace):
        return Standing()
    return standing(profile, key, good_records(graph.runs_folder(profile, stage)), read=True)


def recall(profile: str, made: Standing, workspace: Path, say: Callable[[str], None]) -> Record | None:
    """Publish what a stage has made and return the run record that says so; None: the stage has to run."""
    if made.record is None:
        return None
    stage, aside, pulled = made.record["stage"], workspace / ASIDE, "pulled" in made.record.get("origin", {})
    try:
        if made.lost:
            raise Gone(made.lost)
        ready = _prepare(profile, made.record, aside)
    except Gone as gone:
        shutil.rmtree(aside, ignore_errors=True)
        past = f"{'was pulled' if pulled else 'ran'} under this key on {made.then}"
        say(f"stage {stage}  {past}, but its {gone} is not kept any more: it runs {'here' if pulled else 'again'}")
        return None
    files.publish_all(ready)
    _release(profile, made.record)
    past = f"{'was pulled' if pulled else 'has run'} under this key before"
    say(f"stage {stage}  {past}: its outputs of {made.then} are back{_warning(made.record)}")
    return made.record


def _release(profile: str, record: Record) -> None:
    """Leave the only link to the files of a record's outputs where they are published, until DVC has committed them.

    It would copy what has a second one. They are kept again when DVC is done (pipelines/restore.settle).
    """
    for name, digest in record["outputs"].items():
        if not graph.is_by_hash(profile, name):
            shutil.rmtree(graph.payload_store(profile) / digest, ignore_errors=True)


def _warning(record: Record) -> str:
    """What must be said with an output that a run from scratch would not make: its training's past."""
    return f" ({record['warning']})" if "warning" in record else ""


def _prepare(profile: str, record: Record, aside: Path) -> dict[Path, Path]:
    """Lay every output that is not there whole beside its place, and check it; target → source. Raises Gone."""
    shutil.rmtree(aside, ignore_errors=True)
    ready: dict[Path, Path] = {}
    for name, digest in record["outputs"].items():
        path, source = graph.dataset_path(profile, name), aside / name
        if harm_of_output(profile, record, name, read=True) is None:
            continue
        try:
            if path.suffix == ".json":
                files.write_atomic(source, files.canonical_json(record["metrics"]))
            elif graph.is_by_hash(profile, name):
                store.lay_links(graph.payload_store(profile) / digest, source, at=path)
            else:
                kept.lay_out(graph.payload_store(profile) / digest, source)
                manifest.verify(source, stage=record["stage"], dataset=path.name)
                kept.keep_replaced(path, graph.payload_store(profile), stage=record["stage"], dataset=path.name)
        except (UserError, FileNotFoundError) as error:  # the sentence of a damaged one is of no use: it is made again
            if not _healed(profile, record, name):
                raise Gone(name) from error
            continue
        ready[path] = source
    return ready


def _healed(profile: str, record: Record, name: str) -> bool:
    """Have DVC write a damaged output anew from its cache, drop the kept files, which are damaged, too."""
    if not can_be_healed(profile, record, name):
        return False
    shutil.rmtree(graph.payload_store(profile) / record["outputs"][name], ignore_errors=True)
    restore.check_out(profile, name)
    return harm_of_output(profile, record, name, read=True) is None
