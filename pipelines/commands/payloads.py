"""`make payloads`: list all payloads of a profile, where each is kept and who needs it; GC=1 removes unneeded ones.

A payload is kept in place (the dataset's own directory), in DVC's cache (an older version), or in the profile's store.
A payload in the store is needed by a published dataset, or by its manifest in DVC's cache: so `dvc gc` decides which
versions are kept, and GC=1 removes the payloads of the others. CHECK=1 reads every file and says which have changed.

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
"""Hex digits of a digest that the table shows, enough to find its directory."""


@dataclass(frozen=True)
class Payload:
    """One sealed directory: the dataset that it was made for, its bytes, who needs it, and where it is kept.

    `path` is its directory; in DVC's cache, which keeps files one by one, the path of its manifest.
    """

    path: Path
    dataset: str
    size: int
    named_by: str
    digest: str
    kept_in: str = STORE


def payloads(profile: str) -> list[Payload]:
    """Return all payloads of a profile, by dataset."""
    all_payloads = [*in_store(profile), *_in_place(profile), *_in_cache(profile)]
    return sorted(all_payloads, key=lambda payload: (payload.dataset, payload.kept_in, payload.digest))


def _in_place(profile: str) -> Iterator[Payload]:
    """Yield the published payloads whose files are in the dataset's own directory."""
    for name in graph.catalog_entries(profile):
        path, digest = graph.dataset_path(profile, name), graph.digest_of(profile, name)
        if digest and path.suffix != ".json" and not graph.is_by_hash(profile, name):
            yield _described(path, path / MANIFEST, PUBLISHED, digest, IN_PLACE)


def _in_cache(profile: str) -> Iterator[Payload]:
    """Yield the older versions, made by the profile's runs, that DVC's cache keeps."""
    cache = DvcCache()
    runs = [run for stage in load_stages_file().stages for run in good_records(graph.runs_folder(profile, stage))]
    outputs = {(name, digest) for run in runs for name, digest in run["outputs"].items()}
    older = {digest for name, digest in outputs if graph.digest_of(profile, name) != digest}
    for digest in older & set(cache.directories):
        if cache.holds(digest):
            seal = cache.object(cache.directories[digest][MANIFEST])
            yield _described(seal, seal, CACHED, digest, CACHED)


def in_store(profile: str) -> list[Payload]:
    """Return the payloads of a profile's store, by dataset."""
    folder = graph.payload_store(profile)
    published = {graph.digest_of(profile, name) for name in graph.catalog_entries(profile)}
    needed = {path.name for path in folder.glob("*/") if path.name in published}
    cache = DvcCache()
    cached = {path.parent.name for path in folder.glob(f"*/{MANIFEST}") if cache.has(path)}
    unnamed = set(store.unnamed(folder, needed | cached))
    in_folder = [
        _payload(path, NOBODY if path in unnamed else PUBLISHED if path.name in needed else CACHED)
        for path in folder.glob(store.PAYLOADS)
    ]
    return sorted(in_folder, key=lambda payload: (payload.dataset, payload.path.name))


def _payload(path: Path, named_by: str) -> Payload:
    seal = path / MANIFEST
    if not seal.is_file():  # left by a publish that was killed; the next one with that content repairs it
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return Payload(path, "?", size, named_by, path.name)
    return _described(path, seal, named_by, path.name, STORE)


def _described(path: Path, seal: Path, named_by: str, digest: str, kept_in: str) -> Payload:
    content = parsed(seal, remake(path) if kept_in == IN_PLACE else f"remove the payload (`rm -r {path}`)")
    size = sum(file["size"] for file in content["files"].values())
    return Payload(path, f"{content['stage']}/{content['dataset']}", size, named_by, digest, kept_in)


def collect(profile: str) -> list[Payload]:
    """Remove the payloads that nobody needs, and return them.

    Raises:
        UserError: a stage of the profile is running, which might publish a payload; or the store is a link to a
            folder that others may use too.

    """
    folder = graph.payload_store(profile)
    if folder.resolve() != ROOT.resolve() / folder.relative_to(ROOT):
        raise UserError(
            f"{folder} is reached by a link to {folder.resolve()}, where others may keep payloads too, so none was "
            f"removed: `make payloads PROFILE={profile}` lists them; remove by hand those that nobody needs."
        )
    with ExitStack() as stack:
        for stage in load_stages_file().stages:
            path = graph.work_folder(profile) / stage / "lock"
            stack.enter_context(lock(path, f"stage {stage} of profile {profile}", patience=0))
        for aside in folder.glob("*.old"):
            heal(aside.with_suffix(""))  # left by a publish that was killed: it may be the only copy
        removed = [payload for payload in in_store(profile) if payload.named_by == NOBODY]
        for payload in removed:
            shutil.rmtree(payload.path)
    return removed


def damaged(payloads: list[Payload]) -> list[Payload]:
    """Return the payloads with a file that differs from the manifest; every file is read."""
    cache = DvcCache()
    return [payload for payload in payloads if not _is_whole(payload, cache)]


def _is_whole(payload: Payload, cache: DvcCache) -> bool:
    if payload.kept_in == CACHED:
        return cache.holds(payload.digest, read=True)
    if payload.kept_in == STORE:
        return (payload.path / MANIFEST).is_file() and store.is_whole(payload.path)
    stage, dataset = payload.dataset.split("/")
    try:
        verify(payload.path, stage=stage, dataset=dataset)
    except UserError:
        return False
    return True


def _with_remedy(payload: Payload, profile: str) -> str:
    """Return a damaged payload with its remedy: its stage replaces a published one, any other is removed."""
    stage = payload.dataset.partition("/")[0]
    repro = make_again(stage, profile, force=payload.kept_in == STORE)
    remedy = repro if payload.named_by == PUBLISHED else f"remove it (`rm -r {payload.path}`)"
    return f"{payload.path} ({payload.dataset}): {remedy}"


def show(payloads: list[Payload]) -> None:
    """Print the payloads as a table."""
    from rich.table import Table

    table = Table(title=f"{len(payloads)} payloads, {gigabytes(payloads)}", title_justify="left")
    for column in ("dataset", "digest", "needed by", "kept in"):
        table.add_column(column, overflow="fold")
    table.add_column("GB", justify="right", no_wrap=True)
    for payload in payloads:
        table.add_row(
            payload.dataset, payload.digest[:SHORT], payload.named_by, payload.kept_in, f"{payload.size / 1e9:,.3f}"
        )
    screen().print(table)


def gigabytes(payloads: list[Payload]) -> str:
    """Return the payloads' total size as text."""
    return f"{sum(payload.size for payload in payloads) / 1e9:,.3f} GB"


def main() -> None:
    """List payloads, check them, or remove those that nobody needs."""
    parser = argparse.ArgumentParser(description="The payloads of a profile.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--check", action="store_true", help="read every file anew")
    parser.add_argument("--gc", action="store_true", help="remove those that nobody needs")
    arguments = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(arguments.env)
        if arguments.gc:
            removed = collect(profile)
            print(f"{len(removed)} payloads removed, {gigabytes(removed)}")
        show(listed := payloads(profile))
        if arguments.check and (bad := damaged(listed)):
            raise UserError(
                f"changed since they were sealed: {'; '.join(_with_remedy(payload, profile) for payload in bad)}."
            )


if __name__ == "__main__":
    main()
