"""`make payloads` on a profile that keeps its payloads in place, as laptop and smoke do."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.artifacts.files import files_below
from engine.artifacts.manifest import MANIFEST
from pipelines import graph
from pipelines.commands import payloads
from pipelines.commands.payloads import IN_PLACE, NOBODY, PUBLISHED, RECENT, STORE
from tests.runs import Runs

BASE = "base_checkpoint"
NOW = (datetime.now(UTC) - datetime(2026, 1, 1, tzinfo=UTC)).days
"""The age in days of the runs of these tests, which end on the first of January 2026."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.fixture
def versions(runs: Runs) -> tuple[str, str]:
    """Return the digests of an older and the present version of a checkpoint, both kept."""
    older = runs.add("pretrain", 1)["outputs"][BASE]
    runs.keep(BASE)
    present = runs.add("pretrain", 2, width=3)["outputs"][BASE]
    runs.keep(BASE)
    return older, present


def listed(days: float) -> set[tuple[str, str, str]]:
    """Return digest, place and who needs it of each payload of the checkpoint."""
    all_payloads = payloads.payloads("smoke", days)
    return {(row.digest, row.kept_in, row.named_by) for row in all_payloads if row.dataset == f"pretrain/{BASE}"}


def test_what_is_in_place_and_older_versions_in_the_store_are_listed(versions: tuple[str, str]) -> None:
    older, present = versions
    in_use = {(present, IN_PLACE, PUBLISHED), (present, STORE, PUBLISHED)}
    assert listed(NOW + 2) == in_use | {(older, STORE, RECENT)}
    assert listed(NOW - 2) == in_use | {(older, STORE, NOBODY)}
    assert payloads.damaged("smoke", payloads.payloads("smoke")) == []


def test_the_table_has_a_row_for_each_version_with_its_places(
    versions: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed_payloads = payloads.payloads("smoke")
    payloads.show(listed_payloads)
    table = capsys.readouterr().out
    for digest, places in zip(versions, ("store", "in place, store"), strict=True):
        (line,) = [line for line in table.splitlines() if digest[: payloads.SHORT] in line]
        assert places in [cell.strip() for cell in line.split("│")]
    assert f"{len({row.digest for row in listed_payloads})} payloads" in table


def test_bytes_are_counted_where_they_are_on_the_disk_once(runs: Runs, versions: tuple[str, str]) -> None:
    files = [path for path in files_below(runs.root / "data/smoke") if path.suffix in {".txt", ".png", ".jsonl"}]
    inodes = {path.stat().st_ino: path.stat().st_size for path in files}
    assert len(inodes) == len(files) - 1, "the present checkpoint has two names"
    assert sum(row.size for row in payloads.payloads("smoke")) == sum(inodes.values())
    sizes = {row.kept_in: row.size for row in payloads.payloads("smoke") if row.digest == versions[1]}
    assert sizes == {IN_PLACE: (graph.dataset_path("smoke", BASE) / "content.txt").stat().st_size, STORE: 0}


def test_what_no_output_and_no_recent_run_names_is_removed(
    runs: Runs, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "ROOT", runs.root)
    older, present = versions
    store = graph.payload_store("smoke")
    (store / ".0.partial").mkdir()  # of a process that was killed while it kept a version
    (store / f".{os.getpid()}.partial").mkdir()  # of one that is at it
    (store / "0a").symlink_to(runs.root)
    assert payloads.collect("smoke", NOW + 2) == []
    (removed,) = payloads.collect("smoke", NOW - 2)
    assert (removed.digest, removed.size) == (older, len(b"{}"))
    assert {path.name for path in store.iterdir()} == {present, f".{os.getpid()}.partial", "0a"}
    assert (graph.dataset_path("smoke", BASE) / "content.txt").is_file()


def test_damage_is_found_in_both_places_and_each_has_its_remedy(versions: tuple[str, str]) -> None:
    older, present = versions
    for folder in (graph.dataset_path("smoke", BASE), graph.payload_store("smoke") / older):
        file = folder / "content.txt"
        file.chmod(0o644)
        file.write_bytes(bytes(file.stat().st_size))
    bad = payloads.damaged("smoke", payloads.payloads("smoke"))
    assert {(row.digest, row.kept_in) for row in bad} == {(present, IN_PLACE), (present, STORE), (older, STORE)}
    remedies = {row.digest: payloads._with_remedy(row, "smoke") for row in bad}
    assert "`make repro STAGE=pretrain PROFILE=smoke`" in remedies[present]
    assert f"`rm -r {graph.payload_store('smoke') / older}`" in remedies[older]


def test_a_payload_without_its_manifest_is_listed_and_damaged(versions: tuple[str, str]) -> None:
    (graph.payload_store("smoke") / versions[0] / MANIFEST).unlink()
    (row,) = payloads.damaged("smoke", payloads.payloads("smoke"))
    assert (row.dataset, row.digest) == ("?", versions[0])
