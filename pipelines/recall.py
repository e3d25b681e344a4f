"""What a stage has made before under the same key comes back, instead of being made again.

This is what DVC's run cache is for. But that leaves out stages whose outputs persist, and ours must persist, since DVC
deletes other outputs before a stage starts. So a stage that DVC starts looks itself: its run records say what it made
under which key, payloads kept by hash are in the store, other directories in DVC's cache, metrics in the record. All
of it is checked against the record's digests before any of it is published; where something is gone, the stage runs.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.artifacts import files, manifest, store
from engine.errors import UserError
from engine.identity.records import good_records
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.hooks import FRESH

DVC = "DVC_STAGE"
"""In the environment of a stage that DVC has started."""
FORCED = "K2_FORCED"
"""Set by `pipelines.repro --force` (Dagster's `force`): the stage is to run."""
Record = dict[str, Any]


class Gone(Exception):
    """An output that was made once is kept nowhere now; names it."""


def recall(profile: str, stage: str, key: str, workspace: Path, say: Callable[[str], None]) -> Record | None:
    """Publish what the stage made under `key` and return the run record that says so; None: the stage has to run.

    Only where DVC has started the stage and found it stale: the last run was of another key, and what is there is not
    what the key made. One who asks for the stage itself (`kedro run`, `--force`, or `dvc repro -f` of what is fresh)
    wants it to run.
    """
    if DVC not in os.environ or os.environ.get(FRESH) or os.environ.get(FORCED):
        return None
    good = good_records(graph.runs_folder(profile, stage))
    made = [run for run in good if run["key"] == key]
    if not made or good[-1]["key"] == key or graph.is_published(profile, made[-1]["outputs"]):
        return None
    then = str(made[-1]["finished"])[:16].replace("T", " ")
    try:
        _bring_back(profile, made[-1], workspace / "recalled")
    except Gone as gone:
        shutil.rmtree(workspace / "recalled", ignore_errors=True)
        say(f"stage {stage}  ran under this key on {then}, but its {gone} is not kept any more: it runs again")
        return None
    say(f"stage {stage}  has run under this key before: its outputs of {then} are back")
    return made[-1]


def _bring_back(profile: str, record: Record, aside: Path) -> None:
    """Publish all outputs of a record, each checked before the first is published. Raises Gone where one cannot be."""
    cache = DvcCache()
    ready: list[Callable[[], None]] = []
    for name, digest in record["outputs"].items():
        path = graph.dataset_path(profile, name)
        try:
            if path.suffix == ".json":
                ready.append(_metrics(path, record, digest))
            elif graph.is_by_hash(profile, name):
                ready.append(_payload(path, graph.payload_store(profile) / digest, record["stage"]))
            else:
                ready.append(_directory(path, record["stage"], digest, cache, aside / name))
        except (Gone, UserError, OSError) as error:  # the sentence of a damaged one is of no use: it is made again
            raise Gone(name) from error
    for publish in ready:
        publish()


def _metrics(path: Path, record: Record, digest: str) -> Callable[[], None]:
    data = files.canonical_json(record["metrics"])
    if files.digest_bytes(data) != digest:
        raise Gone
    return lambda: files.write_atomic(path, data)


def _payload(path: Path, held: Path, stage: str) -> Callable[[], None]:
    if manifest.content_digest(held) != held.name:
        raise Gone
    wanted = manifest.read_manifest(held, stage=stage, dataset=path.name)["files"]
    store.verify_payload(held, stage=stage, dataset=path.name, files=wanted)
    return lambda: store.publish_links(held, path)


def _directory(path: Path, stage: str, digest: str, cache: DvcCache, aside: Path) -> Callable[[], None]:
    cache.copy(digest, aside)
    manifest.verify(aside, stage=stage, dataset=path.name)
    return lambda: files.publish(aside, path)
