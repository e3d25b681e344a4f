"""`make payloads`: all payloads of a profile, where each is kept, and who asks for it; GC=1 removes what nobody does.

A payload is kept in place (the dataset's own directory), in DVC's cache (an older version), or in the profile's store.
One in the store is asked for by a dataset that is published, or by its manifest in DVC's cache: so `dvc gc` decides
which versions are kept, and what it has let go of goes here. CHECK=1 reads every file anew and says which have changed.

    python -m pipelines.commands.payloads --env k2 [--check] [--gc]
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.artifacts import store
from engine.artifacts.files import heal
from engine.artifacts.manifest import MANIFEST, parsed, verify
from engine.errors import UserError
from engine.identity.records import good_records
from engine.launch.lifetime import lock
from engine.remedy import make_again, remake
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.errors import report_errors
from pipelines.output import screen
from pipelines.stages_file import ROOT, load_stages_file

PUBLISHED, CACHED, NOBODY = "published", "DVC's cache", "nobody"
STORE, IN_PLACE = "store", "in place"
SHORT = 12
"""Hex digits of a digest that the table shows: enough to find its directory by."""


@dataclass(frozen=True)
class Payload:
    """One sealed directory: the dataset that it was made for, its bytes, who asks for it, and where it is kept.

    `path` is where it lies; of one in DVC's cache, which keeps files apart, where its manifest does.
    """

    path: Path
    dataset: str
    size: int
    named_by: str
    digest: str
    kept_in: str = STORE


def payloads(profile: str) -> list[Payload]:
    """Return all payloads of a profile, by dataset."""
    found = [*in_store(profile), *_in_place(profile), *_in_cache(profile)]
    return sorted(found, key=lambda one: (one.dataset, one.kept_in, one.digest))


def _in_place(profile: str) -> Iterator[Payload]:
    """What is published with its files in the dataset's own directory."""
    for name in graph.catalog_entries(profile):
        path, digest = graph.dataset_path(profile, name), graph.digest_of(profile, name)
        if digest and path.suffix != ".json" and not graph.is_by_hash(profile, name):
            yield _described(path, path / MANIFEST, PUBLISHED, digest, IN_PLACE)


def _in_cache(profile: str) -> Iterator[Payload]:
    """The older versions that the profile's runs have left and DVC's cache keeps."""
    cache = DvcCache()
    runs = [run for stage in load_stages_file().stages for run in good_records(graph.runs_folder(profile, stage))]
    made = {(name, digest) for run in runs for name, digest in run["outputs"].items()}
    older = {digest for name, digest in made if graph.digest_of(profile, name) != digest}
    for digest in older & set(cache.directories):
        if cache.holds(digest):
            seal = cache.object(cache.directories[digest][MANIFEST])
            yield _described(seal, seal, CACHED, digest, CACHED)


def in_store(profile: str) -> list[Payload]:
    """Return the payloads of a profile's store, by dataset."""
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
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return Payload(path, "?", size, named_by, path.name)
    return _described(path, seal, named_by, path.name, STORE)


def _described(path: Path, seal: Path, named_by: str, digest: str, kept_in: str) -> Payload:
    content = parsed(seal, remake(path) if kept_in == IN_PLACE else f"remove the payload (`rm -r {path}`)")
    size = sum(file["size"] for file in content["files"].values())
    return Payload(path, f"{content['stage']}/{content['dataset']}", size, named_by, digest, kept_in)


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
        for stage in load_stages_file().stages:
            path = graph.work_folder(profile) / stage / "lock"
            stack.enter_context(lock(path, f"stage {stage} of profile {profile}", patience=0))
        for aside in folder.glob("*.old"):
            heal(aside.with_suffix(""))  # of a publish that was killed: it may be the only copy
        gone = [one for one in in_store(profile) if one.named_by == NOBODY]
        for one in gone:
            shutil.rmtree(one.path)
    return gone


def damaged(found: list[Payload]) -> list[Payload]:
    """Return those in which a file is not what the manifest says: every file is read."""
    cache = DvcCache()
    return [one for one in found if not _is_whole(one, cache)]


def _is_whole(one: Payload, cache: DvcCache) -> bool:
    if one.kept_in == CACHED:
        return cache.holds(one.digest, read=True)
    if one.kept_in == STORE:
        return (one.path / MANIFEST).is_file() and store.is_whole(one.path)
    stage, dataset = one.dataset.split("/")
    try:
        verify(one.path, stage=stage, dataset=dataset)
    except UserError:
        return False
    return True


def _with_remedy(one: Payload, profile: str) -> str:
    """A damaged payload and what heals it: a stage that makes the same again exchanges it, others are removed."""
    stage = one.dataset.partition("/")[0]
    again = make_again(stage, profile, force=one.kept_in == STORE)
    return f"{one.path} ({one.dataset}): {again if one.named_by == PUBLISHED else f'remove it (`rm -r {one.path}`)'}"


def show(found: list[Payload]) -> None:
    """Print them as a table."""
    from rich.table import Table

    table = Table(title=f"{len(found)} payloads, {gigabytes(found)}", title_justify="left")
    for column in ("dataset", "digest", "asked for by", "kept in"):
        table.add_column(column, overflow="fold")
    table.add_column("GB", justify="right", no_wrap=True)
    for one in found:
        table.add_row(one.dataset, one.digest[:SHORT], one.named_by, one.kept_in, f"{one.size / 1e9:,.3f}")
    screen().print(table)


def gigabytes(found: list[Payload]) -> str:
    """Their size together."""
    return f"{sum(one.size for one in found) / 1e9:,.3f} GB"


def main() -> None:
    """List, check, or remove what nobody asks for."""
    parser = argparse.ArgumentParser(description="The payloads of a profile.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--check", action="store_true", help="read every file anew")
    parser.add_argument("--gc", action="store_true", help="remove those that nobody asks for")
    asked = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(asked.env)
        if asked.gc:
            gone = collect(profile)
            print(f"{len(gone)} payloads removed, {gigabytes(gone)}")
        show(found := payloads(profile))
        if asked.check and (bad := damaged(found)):
            raise UserError(f"changed since they were sealed: {'; '.join(_with_remedy(one, profile) for one in bad)}.")


if __name__ == "__main__":
    main()
