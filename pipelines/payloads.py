"""`make payloads`: what lies in a profile's store of payloads, and who still asks for it; GC=1 removes the rest.

A payload is asked for by a dataset that is published, or by its manifest in DVC's cache: so `dvc gc` decides which
versions are kept, and what it has let go of goes here. CHECK=1 reads every file anew and says which have changed.

    python -m pipelines.payloads --env k2 [--check] [--gc]
"""

import argparse
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.artifacts import store
from engine.artifacts.files import heal
from engine.artifacts.manifest import MANIFEST, parsed
from engine.errors import UserError
from engine.launch.lifetime import lock
from engine.remedy import make_again
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.errors import report_errors
from pipelines.manifest import ROOT, load_manifest
from pipelines.status import screen

PUBLISHED, CACHED, NOBODY = "published", "DVC's cache", "nobody"
SHORT = 12
"""Hex digits of a digest that the table shows: enough to find its directory by."""


@dataclass(frozen=True)
class Payload:
    """One directory of the store: the dataset that it was made for, its bytes, and who asks for it."""

    path: Path
    dataset: str
    size: int
    named_by: str


def payloads(profile: str) -> list[Payload]:
    """All payloads of a profile's store, by dataset."""
    folder = graph.payload_store(profile)
    published = {graph.digest_of(profile, name) for name in graph.catalog_entries(profile)}
    named = {path.name for path in folder.glob("*/") if path.name in published}
    cache = DvcCache()
    kept = {path.parent.name for path in folder.glob(f"*/{MANIFEST}") if cache.has(path)}
    unnamed = set(store.unnamed(folder, named | kept))
    found = [
        _payload(path, NOBODY if path in unnamed else PUBLISHED if path.name in named else CACHED)
        for path in folder.glob(store.PAYLOADS)
    ]
    return sorted(found, key=lambda one: (one.dataset, one.path.name))


def _payload(path: Path, named_by: str) -> Payload:
    seal = path / MANIFEST
    if not seal.is_file():  # what a publish left that was killed; the next one of that content puts it right
        return Payload(path, "?", sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), named_by)
    content = parsed(seal, f"remove the payload (`rm -r {path}`)")
    size = sum(file["size"] for file in content["files"].values())
    return Payload(path, f"{content['stage']}/{content['dataset']}", size, named_by)


def collect(profile: str) -> list[Payload]:
    """Remove the payloads that nobody asks for, and return them.

    Raises:
        UserError: a stage of the profile is running, which might be about to publish one; or the store is a link,
            and what it leads to may be another's.

    """
    folder = graph.payload_store(profile)
    if folder.resolve() != ROOT.resolve() / folder.relative_to(ROOT):
        raise UserError(
            f"{folder} is reached by a link to {folder.resolve()}, where others may keep payloads too, so none was "
            f"removed: `make payloads PROFILE={profile}` lists them; remove by hand those that nobody asks for."
        )
    with ExitStack() as stack:
        for stage in load_manifest().stages:
            path = graph.work_folder(profile) / stage / "lock"
            stack.enter_context(lock(path, f"stage {stage} of profile {profile}", patience=0))
        for aside in folder.glob("*.old"):
            heal(aside.with_suffix(""))  # of a publish that was killed: it may be the only copy
        gone = [one for one in payloads(profile) if one.named_by == NOBODY]
        for one in gone:
            shutil.rmtree(one.path)
    return gone


def damaged(found: list[Payload]) -> list[Payload]:
    """Those in which a file is not what the manifest says: every file is read."""
    return [one for one in found if not (one.path / MANIFEST).is_file() or not store.is_whole(one.path)]


def _with_remedy(one: Payload, profile: str) -> str:
    """A damaged payload and what heals it: a stage that makes the same again exchanges it, others are removed."""
    stage = one.dataset.partition("/")[0]
    asked_for = one.named_by == PUBLISHED
    return f"{one.path}: {make_again(stage, profile, force=True) if asked_for else f'remove it (`rm -r {one.path}`)'}"


def show(found: list[Payload]) -> None:
    """Print them as a table."""
    from rich.table import Table

    table = Table(title=f"{len(found)} payloads, {gigabytes(found)}", title_justify="left")
    for column in ("dataset", "digest", "asked for by"):
        table.add_column(column, overflow="fold")
    table.add_column("GB", justify="right", no_wrap=True)
    for one in found:
        table.add_row(one.dataset, one.path.name[:SHORT], one.named_by, f"{one.size / 1e9:,.3f}")
    screen().print(table)


def gigabytes(found: list[Payload]) -> str:
    """Their size together."""
    return f"{sum(one.size for one in found) / 1e9:,.3f} GB"


def main() -> None:
    """List, check, or remove what nobody asks for."""
    parser = argparse.ArgumentParser(description="The payloads that are kept by hash.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--check", action="store_true", help="read every file anew")
    parser.add_argument("--gc", action="store_true", help="remove those that nobody asks for")
    asked = parser.parse_args()
    with report_errors():
        profile = load_manifest().profile(asked.env)
        if asked.gc:
            gone = collect(profile)
            print(f"{len(gone)} payloads removed, {gigabytes(gone)}")
        show(found := payloads(profile))
        if asked.check and (bad := damaged(found)):
            raise UserError(f"changed since sealed: {'; '.join(_with_remedy(one, profile) for one in bad)}.")


if __name__ == "__main__":
    main()
