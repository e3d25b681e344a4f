"""`make clean` and `make payloads GC=1` remove what is theirs, and nothing that a link leads to."""

import json
from pathlib import Path

import pytest

from engine.artifacts.store import FOLDER
from engine.errors import UserError
from pipelines import graph
from pipelines.commands import clean, payloads


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(clean, "ROOT", tmp_path / "tree")
    return tmp_path / "tree"


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("1234")
    return folder


def test_caches_and_finished_work_go_and_the_rest_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    removed = [fill(root / name) for name in (".ruff_cache", "nodes/__pycache__", "data/smoke/.work/sft/aa")]
    stays = [fill(root / name) for name in ("data/smoke/.work/sft/bb", "data/smoke/.work/sft/cc", "nodes/sft")]
    stays.append(root / "data/README.md")
    stays[-1].write_text("")
    runs = root / "data/smoke/.runs/sft"
    runs.mkdir(parents=True)
    (runs / "aa-1.json").write_text(json.dumps({"outcome": "success", "finished": "2026-02"}))
    (runs / "bb-1.json").write_text(json.dumps({"outcome": "failed", "finished": "2026-02"}))
    for work in (removed[-1], *stays[:2]):
        (work / "begun.json").write_text(json.dumps({"started": "2026-01"}))
    (runs / "cc-1.json").write_text("torn")
    clean.main()
    assert not any(path.exists() for path in removed)
    assert all(path.exists() for path in stays)
    assert "0.0 MB  nodes/__pycache__" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", [".cache", "nodes/__pycache__", "shared", "data", "data/smoke", "data/smoke/.rejected"]
)
def test_nothing_is_removed_through_a_link(root: Path, tmp_path: Path, name: str) -> None:
    inside = {"shared": "__pycache__", "data": "smoke/.rejected", "data/smoke": ".rejected"}.get(name, "")
    others = fill(tmp_path / "elsewhere" / inside)
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(tmp_path / "elsewhere")
    own = fill(root / ".ruff_cache")
    (own / "link").symlink_to(others / "file")
    clean.main()
    assert (others / "file").exists()
    assert (root / name).is_symlink()
    assert not own.exists()


def test_payloads_behind_a_link_are_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "ROOT", tmp_path / "tree")
    monkeypatch.setattr(payloads, "ROOT", tmp_path / "tree")
    others = fill(tmp_path / "elsewhere" / "0a")
    (tmp_path / "tree/data/k2").mkdir(parents=True)
    (tmp_path / "tree/data/k2" / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"is reached by a link to .*elsewhere.*none was removed.*PROFILE=k2"):
        payloads.collect("k2")
    assert (others / "file").exists()
