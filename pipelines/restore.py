"""Bring outputs back from DVC's cache by DVC's own commands, and keep in the store what is published now.

A file that is lost or damaged so costs a copy and not a run. DVC itself would run the stage again: its run cache leaves
out stages whose outputs persist, and ours must persist, since DVC deletes other outputs before a stage starts. Missing
outputs are restored by the `code` stage, which runs before all others; damaged ones by their stage, when DVC runs it
because they have changed (pipelines/recall).
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.artifacts import kept, store
from engine.artifacts.manifest import MANIFEST
from engine.credentials import masked
from engine.errors import UserError, warn
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.ledger import read_ledger
from pipelines.stages_file import ROOT, load_stages_file


def ledger_outputs(profile: str) -> dict[Path, str]:
    """Return the outputs that the profile's dvc.lock names, each with its MD5."""
    stages = read_ledger(profile)
    outs = [out for name, stage in stages.items() if name != "code" for out in stage.get("outs", [])]
    return {ROOT / out["path"]: str(out["md5"]) for out in outs}


def missing_outputs(profile: str) -> dict[Path, str]:
    """Return the missing outputs that the profile's dvc.lock names, each with its MD5."""
    return {path: md5 for path, md5 in ledger_outputs(profile).items() if not path.exists()}


def settle(profile: str, *stages: str) -> None:
    """Keep in the store what the stages (by default all) have published, whether they or DVC have put it there.

    Payloads kept by hash are linked as the present manifests list them. A damaged directory, or a missing payload, is
    warned of: who loads it refuses it; until then other stages can run.
    """
    for name, entry in graph.catalog_entries(profile).items():
        path, stage = graph.dataset_path(profile, name), str(entry["stage"])
        if stage not in (stages or load_stages_file().stages) or not (path / MANIFEST).is_file():
            continue
        put = store.link if graph.is_by_hash(profile, name) else kept.keep
        try:
            put(path, graph.payload_store(profile), stage=stage, dataset=path.name)
        except UserError as error:
            warn(str(error))
        except FileNotFoundError:  # a stage is publishing another version now, and has kept this one itself
            continue


def restore_missing(profile: str) -> None:
    """Check missing outputs out of DVC's cache; what it does not hold is recalled from the store, or made again."""
    missing = _own(missing_outputs(profile))
    if not missing:
        return
    checkout = _dvc("checkout", "--quiet", *missing)
    restored = [name for name in missing if (ROOT / name).exists()]
    print(f"back from DVC's cache: {', '.join(restored) or 'none'} of {len(missing)} missing", file=sys.stderr)
    if len(restored) < len(missing):
        reason = masked(" ".join(checkout.stderr.split()))
        print(f"the rest comes back from the store, or is made again: {reason}", file=sys.stderr)


def in_cache(profile: str | None, name: str) -> bool:
    """Return whether DVC's cache has all files of a published directory, whose manifest is the one in dvc.lock."""
    path = graph.dataset_path(profile, name)
    if path not in ledger_outputs(load_stages_file().profile(profile)):
        return False
    status = _data_status(path, "--granular")
    return status is not None and path / MANIFEST not in _changed(status) and not status.get("not_in_cache")


def changed_outputs(outputs: Iterable[Path]) -> set[Path]:
    """Return those outputs that are not what dvc.lock says, by DVC's own hashes; all where DVC does not answer.

    `dvc data status` answers while a stage runs; `dvc status` would wait for that stage's files.
    """
    outputs = set(outputs)
    status = _data_status(*sorted(outputs)) if outputs else {}
    return outputs if status is None else outputs & _changed(status)


def _data_status(*words: Path | str) -> dict[str, Any] | None:
    """Return what `dvc data status` says about outputs; None, with a warning, if it fails."""
    shown = [word.relative_to(ROOT).as_posix() if isinstance(word, Path) else word for word in words]
    status = _dvc("data", "status", "--json", *shown)
    if status.returncode:
        warn(f"`dvc data status {' '.join(shown)}` failed: {masked(' '.join(status.stderr.split()))}")
        return None
    return dict(json.loads(status.stdout))


def _changed(status: dict[str, Any]) -> set[Path]:
    """Return the files and folders that differ from dvc.lock, of whatever kind the difference is."""
    names: list[str] = []
    for items in status.get("uncommitted", {}).values():
        for item in items:  # a name, or of what was renamed both
            names += item.values() if isinstance(item, dict) else [item]
    return {ROOT / name for name in names}


def check_out(profile: str, name: str) -> None:
    """Let DVC write a published directory anew from its cache, as dvc.lock names it; it is gone if DVC cannot."""
    path = graph.dataset_path(profile, name)
    for own in _own({path: ledger_outputs(profile)[path]}):
        _dvc("checkout", "--quiet", "--force", own)


def _own(outputs: dict[Path, str]) -> list[str]:
    """Return the outputs that DVC may check out: not those whose list in its cache names files elsewhere."""
    if not outputs:
        return []
    cache, own = DvcCache(), []
    for path, md5 in outputs.items():
        try:
            cache.refuse_foreign(md5)
        except UserError as error:
            print(f"warning: {error}; until then {path.name} is made again", file=sys.stderr)
        else:
            own.append(str(path.relative_to(ROOT)))
    return own


def _dvc(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(["dvc", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("there is no `dvc` on PATH: `source .venv/bin/activate`.") from error
