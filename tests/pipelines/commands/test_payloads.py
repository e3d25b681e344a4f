"""`make payloads` on a profile that keeps its payloads in place, as laptop and smoke do."""

from pathlib import Path

import pytest

from pipelines import graph
from pipelines.commands import payloads
from pipelines.commands.payloads import CACHED, IN_PLACE, PUBLISHED
from tests.runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_what_is_in_place_and_older_versions_in_the_cache_are_listed(runs: Runs) -> None:
    older = runs.add("pretrain", 1)["outputs"]["base_checkpoint"]
    runs.store("base_checkpoint")
    now = runs.add("pretrain", 2, width=3)["outputs"]
    runs.store("base_checkpoint")
    listed = payloads.payloads("smoke")
    assert {(payload.dataset, payload.digest, payload.kept_in, payload.named_by) for payload in listed} == {
        ("pretrain/base_checkpoint", now["base_checkpoint"], IN_PLACE, PUBLISHED),
        ("pretrain/pretrain_history", now["pretrain_history"], IN_PLACE, PUBLISHED),
        ("pretrain/base_checkpoint", older, CACHED, CACHED),
    }
    content = graph.dataset_path("smoke", "base_checkpoint") / "content.txt"
    assert [payload.size for payload in listed if payload.digest == now["base_checkpoint"]] == [content.stat().st_size]
    assert payloads.damaged(listed) == []
    assert payloads.in_store("smoke") == [], "what GC=1 may remove"


def test_damage_is_found_in_both_places_and_each_has_its_remedy(runs: Runs) -> None:
    runs.add("pretrain", 1)
    runs.store("base_checkpoint")
    runs.add("pretrain", 2, width=3)
    for file in (graph.dataset_path("smoke", "base_checkpoint") / "content.txt", _cached(runs, b"{}")):
        file.write_bytes(bytes(file.stat().st_size))
    bad = payloads.damaged(payloads.payloads("smoke"))
    remedies = {payload.kept_in: payloads._with_remedy(payload, "smoke") for payload in bad}
    assert "`make repro STAGE=pretrain PROFILE=smoke`" in remedies[IN_PLACE]
    assert f"`rm -r {runs.root / '.dvc/cache'}" in remedies[CACHED]


def _cached(runs: Runs, content: bytes) -> Path:
    cache = runs.root / ".dvc/cache/files/md5"
    return next(path for path in cache.glob("*/*") if path.read_bytes() == content)
