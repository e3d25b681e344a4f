"""A run under a key is refused if its code, environment or inputs were not those of the key."""

from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.identity import snapshot
from engine.identity.fingerprint import KINDS, installed
from pipelines import graph, truth
from tests.runs import Runs

PROFILE = "smoke"


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the parts of a key of rephrase, made from a snapshot of a repository with one package."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/__init__.py").write_text("")
    monkeypatch.setattr(truth, "CODE", snapshot.take(tmp_path))
    Runs(tmp_path, monkeypatch).add("corpus", 1)
    code = {**{kind: {} for kind in KINDS}, "distributions": installed(["kedro", "python"])}
    parameters = {"rephrase": graph.parameters(PROFILE)["rephrase"]}
    inputs = {"documents": graph.digest_of(PROFILE, "documents")}
    return {"code": code, "parameters": parameters, "inputs": inputs, "sources": {}}


def refused(parts: dict[str, Any]) -> str:
    with pytest.raises(UserError) as refusal:
        truth.check(PROFILE, "rephrase", parts)
    sentence = str(refusal.value)
    assert sentence.startswith("stage rephrase is no longer what its key says: ")
    assert sentence.endswith("run `make repro STAGE=rephrase PROFILE=smoke`, which makes a new key.")
    return sentence


def test_a_run_that_matches_its_key_may_be_published(parts: dict[str, Any]) -> None:
    truth.check(PROFILE, "rephrase", parts)


def test_code_that_is_not_the_snapshots_is_refused(parts: dict[str, Any]) -> None:
    path = truth.CODE / "ours/__init__.py"
    path.unlink()
    path.write_text("VALUE = 1")
    assert f"the snapshot {truth.CODE} is not what it was" in refused(parts)


def test_another_version_of_a_distribution_is_refused(parts: dict[str, Any]) -> None:
    """A job meets this after `pip install`, or in an image with other versions than the submitting machine."""
    now = parts["code"]["distributions"]["kedro"]
    parts["code"]["distributions"] |= {"kedro": "0.0.1", "gone-for-good": "1.0"}
    sentence = refused(parts)
    assert f"distribution kedro: 0.0.1 → {now}" in sentence
    assert "distribution gone-for-good: 1.0 → not installed" in sentence


def test_an_input_published_anew_is_refused(parts: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    Runs(tmp_path, monkeypatch).add("corpus", 2, sources="others")
    assert "input documents changed" in refused(parts)


def test_the_patch_level_of_python_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = []
    for patch in ("1", "12"):
        monkeypatch.setattr("platform.python_version_tuple", lambda patch=patch: ("3", "11", patch))
        patches.append(installed(["python"]))
    assert patches == [{"python": "3.11"}] * 2
