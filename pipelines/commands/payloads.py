"""`make payloads`: list all payloads of a profile, where each is kept and who needs it; GC=1 removes unneeded ones.

A payload is kept in place (the dataset's own directory) and in the profile's store, as links to the same files, or in
the store alone: an older version, or any where the profile keeps payloads by hash. Bytes are counted where they are on
the disk, once: what the store shares with a published directory counts there.

GC=1 removes from the store what nobody needs. A payload is needed by the dataset that is published with it; by each run
of the last DAYS days (30) that made it, so that an edit may be taken back; and, where DVC has only manifests (payloads
by hash), by DVC's cache, as long as the manifest is in there: `dvc gc` decides on that.

CHECK=1 reads every file and says which have changed.

    python -m pipelines.commands.payloads --env k2 [--check] [--gc] [--days 30]
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine.artifacts import kept, store
from engine.artifacts.files import files_below, heal
from engine.artifacts.manifest import MANIFEST, parsed, verify
from engine.artifacts.sums import SUMS
from engine.errors import UserError
from engine.identity.records import good_records
from engine.launch.lifetime import lock
from engine.remedy import make_again, remake
from pipelines import graph
from pipelines.dvc_cache import DvcCache
from pipelines.errors import report_errors
from pipelines.output import screen
from pipelines.stages_file import ROOT, load_stages_file

PUBLISHED, CACHED, RECENT, NOBODY = "published", "DVC's cache", "a recent run", "nobody"
DAYS = 30.0
"""The age in days up to which a run is recent."""
STORE, IN_PLACE = "store", "in place"
SHORT = 12
"""Hex digits of a digest that the table shows, enough to find its directory."""


@dataclass(frozen=True)
class Payload:
    """One sealed directory: the dataset that it was made for, its bytes, who needs it, and where it is kept."""

    path: Path
    dataset: str
    size: int
    named_by: str
    digest: str
    kept_in: str = STORE


def payloads(profile: str, days: float = DAYS) -> list[Payload]:
    """Return all payloads of a profile, by dataset, those in place first."""
    counted: set[tuple[int, int]] = set()
    listed = [*_in_place(profile, counted), *in_store(profile, days, counted)]
    return sorted(listed, key=lambda payload: (payload.dataset, payload.kept_in, payload.digest))


def _in_place(profile: str, counted: set[tuple[int, int]]) -> Iterator[Payload]:
    """Yield the published payloads whose files are in the dataset's own directory."""
    for name in graph.catalog_entries(profile):
        path, digest = graph.dataset_path(profile, name), graph.digest_of(profile, name)
        if digest and path.suffix != ".json" and not graph.is_by_hash(profile, name):
            label = "{stage}/{dataset}".format_map(parsed(path / MANIFEST, remake(path)))
            yield Payload(path, label, _size(path, counted), PUBLISHED, digest, IN_PLACE)


def in_store(profile: str, days: float = DAYS, counted: set[tuple[int, int]] | None = None) -> list[Payload]:
    """Return the payloads of a profile's store, by dataset.

    Args:
        profile: the profile's name.
        days: the age up to which a run is recent.
        counted: the files (device and inode) that are counted elsewhere; those of the store are added.

    """
    published = {graph.digest_of(profile, name) for name in graph.catalog_entries(profile)}
    oldest = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    runs = [run for stage in load_stages_file().stages for run in good_records(graph.runs_folder(profile, stage))]
    recent = {digest for run in runs if run["finished"] >= oldest for digest in run["outputs"].values()}
    counted = set() if counted is None else counted

    def described(path: Path) -> Payload:
        label, dataset = _label(path)
        needed_by = PUBLISHED if path.name in published else RECENT if path.name in recent else NOBODY
        if needed_by != PUBLISHED and graph.is_by_hash(profile, dataset) and DvcCache().has(path / MANIFEST):
            needed_by = CACHED
        return Payload(path, label, _size(path, counted), needed_by, path.name)

    paths = [path for path in graph.payload_store(profile).glob(store.PAYLOADS) if not path.is_symlink()]
    return sorted(map(described, sorted(paths)), key=lambda payload: payload.dataset)


def _label(path: Path) -> tuple[str, str]:
    """Return stage/dataset and dataset of a payload; ? for one left by a publish that was killed."""
    if not (path / MANIFEST).is_file():
        return "?", "?"
    content = parsed(path / MANIFEST, f"remove the payload (`rm -r {path}`)")
    return f"{content['stage']}/{content['dataset']}", content["dataset"]


def _size(path: Path, counted: set[tuple[int, int]]) -> int:
    """Return the bytes of a payload's files that are not counted yet, and count them."""
    states = {(state.st_dev, state.st_ino): state.st_size for state in map(Path.stat, _files(path))}
    size = sum(size for file, size in states.items() if file not in counted)
    counted.update(states)
    return size


def _files(path: Path) -> Iterator[Path]:
    return (file for file in files_below(path) if file.name not in {MANIFEST, SUMS})


def collect(profile: str, days: float = DAYS) -> list[Payload]:
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
        for partial in folder.glob(kept.PARTIAL.format("*")):
            if not Path("/proc", partial.name.split(".")[1]).exists():  # else a process is keeping a version
                shutil.rmtree(partial)
        removed = [payload for payload in in_store(profile, days) if payload.named_by == NOBODY]
        for payload in removed:
            shutil.rmtree(payload.path)
    return removed


def damaged(profile: str, payloads: list[Payload]) -> list[Payload]:
    """Return the payloads with a file that differs from the manifest; every file is read."""
    return [payload for payload in payloads if not _is_whole(profile, payload)]


def _is_whole(profile: str, payload: Payload) -> bool:
    stage, _, dataset = payload.dataset.partition("/")
    if payload.kept_in == STORE and graph.is_by_hash(profile, dataset):
        return store.is_whole(payload.path)
    try:
        if payload.kept_in == STORE:
            kept.check(payload.path, stage=stage, dataset=dataset, since=None)
        else:
            verify(payload.path, stage=stage, dataset=dataset)
    except UserError:
        return False
    return True


def _with_remedy(payload: Payload, profile: str) -> str:
    """Return a damaged payload with its remedy: its stage replaces a published one, any other is removed."""
    stage, _, dataset = payload.dataset.partition("/")
    repro = make_again(stage, profile, force=graph.is_by_hash(profile, dataset))
    remedy = repro if payload.named_by == PUBLISHED else f"remove it (`rm -r {payload.path}`)"
    return f"{payload.path} ({payload.dataset}): {remedy}"


def show(payloads: list[Payload]) -> None:
    """Print the payloads as a table: a row for each version, with all places of its files."""
    from rich.table import Table

    versions: dict[tuple[str, str], list[Payload]] = {}
    for payload in payloads:
        versions.setdefault((payload.dataset, payload.digest), []).append(payload)
    table = Table(title=f"{len(versions)} payloads, {megabytes(payloads)}", title_justify="left")
    for column in ("dataset", "digest", "needed by", "kept in"):
        table.add_column(column, overflow="fold")
    table.add_column("MB", justify="right", no_wrap=True)
    for (dataset, digest), copies in versions.items():
        places = ", ".join(copy.kept_in for copy in copies)
        size = sum(copy.size for copy in copies)
        table.add_row(dataset, digest[:SHORT], copies[0].named_by, places, f"{size / 1e6:,.1f}")
    screen().print(table)


def megabytes(payloads: list[Payload]) -> str:
    """Return the payloads' total size as text."""
    return f"{sum(payload.size for payload in payloads) / 1e6:,.1f} MB"


def main() -> None:
    """List payloads, check them, or remove those that nobody needs."""
    parser = argparse.ArgumentParser(description="The payloads of a profile.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--check", action="store_true", help="read every file anew")
    parser.add_argument(
        "--gc",
        action="store_true",
        help="remove from the store what no published dataset, no run of the last DAYS days and, by hash, no manifest "
        "in DVC's cache names",
    )
    parser.add_argument("--days", type=float, default=DAYS, help="the age up to which a run is recent (30)")
    arguments = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(arguments.env)
        if arguments.gc:
            removed = collect(profile, arguments.days)
            print(f"{len(removed)} payloads removed, {megabytes(removed)}")
        show(listed := payloads(profile, arguments.days))
        if arguments.check and (bad := damaged(profile, listed)):
            raise UserError(
                f"changed since they were sealed: {'; '.join(_with_remedy(payload, profile) for payload in bad)}."
            )


if __name__ == "__main__":
    main()
