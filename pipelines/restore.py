"""Bring deleted outputs back from DVC's cache, so that a lost file costs a copy and not a run.

DVC itself would run the stage again: its run cache leaves out stages whose outputs persist, and ours must persist,
since DVC deletes other outputs before a stage starts. So the `code` stage, which runs before all others, restores them.
"""

import subprocess
import sys
from pathlib import Path

from engine.artifacts import store
from engine.artifacts.manifest import MANIFEST
from engine.credentials import masked
from engine.errors import UserError
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.ledger import read_ledger
from pipelines.stages_file import ROOT


def missing_outputs(profile: str) -> dict[Path, str]:
    """Return the missing outputs that the profile's dvc.lock names, each with its MD5."""
    stages = read_ledger(profile)
    outs = [out for name, stage in stages.items() if name != "code" for out in stage.get("outs", [])]
    return {path: str(out["md5"]) for out in outs if not (path := ROOT / out["path"]).exists()}


def relink(profile: str) -> None:
    """Link the payloads kept by hash as the present manifests list them, and warn of each payload that is missing."""
    for name in graph.catalog_entries(profile):
        path = graph.dataset_path(profile, name)
        if graph.is_by_hash(profile, name) and (path / MANIFEST).is_file():
            try:
                store.link(path, graph.payload_store(profile), stage=graph.producer(name), dataset=path.name)
            except UserError as error:  # loading it refuses it; until then other stages can run
                print(f"warning: {error}", file=sys.stderr)


def restore_missing(profile: str) -> None:
    """Check missing outputs out of DVC's cache; a stage makes again what the cache does not hold."""
    missing = _own(missing_outputs(profile))
    if not missing:
        return
    checkout = subprocess.run(
        ["dvc", "checkout", "--quiet", *missing], cwd=ROOT, capture_output=True, text=True, check=False
    )
    restored = [name for name in missing if (ROOT / name).exists()]
    print(f"back from DVC's cache: {', '.join(restored) or 'none'} of {len(missing)} missing", file=sys.stderr)
    if len(restored) < len(missing):
        print(f"the rest will be made again: {masked(' '.join(checkout.stderr.split()))}", file=sys.stderr)


def _own(missing: dict[Path, str]) -> list[str]:
    """Return the outputs that DVC may check out: not those whose list in its cache names files elsewhere."""
    if not missing:
        return []
    cache, own = DvcCache(), []
    for path, md5 in missing.items():
        try:
            cache.refuse_foreign(md5)
        except UserError as error:
            print(f"warning: {error}; until then {path.name} is made again", file=sys.stderr)
        else:
            own.append(str(path.relative_to(ROOT)))
    return own
