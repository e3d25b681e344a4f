"""Outputs that `dvc pull` brought get a run record, if and only if dvc.lock agrees with what is here."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dags.dvc_yaml import dvc_view
from engine.artifacts.files import canonical_json, read_object
from engine.artifacts.manifest import MANIFEST
from engine.identity.key import flatten
from engine.identity.records import PULLED, read_records
from pipelines import code_files, graph, restore, status
from pipelines.ledger import ledger_path
from pipelines.taken_in import take_in_pulled
from tests.runs import Runs, publish

PROFILE = "smoke"
STAGES = ("corpus", "rephrase")
"""A stage without inputs, and one that reads its outputs."""


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository as after `dvc pull` and DVC's stage `code`: outputs, code files and dvc.lock, no record."""
    root = tmp_path_factory.mktemp("pulled")
    stages = {name: entry for name, entry in dvc_view(PROFILE)["stages"].items() if name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(root, patch)
        code_files.write_files(PROFILE)
        for minute, stage in enumerate(STAGES):
            runs.add(stage, minute)
        shutil.rmtree(graph.data_folder(PROFILE) / ".runs")
        view = graph.dvc_file(PROFILE)
        view.parent.mkdir(parents=True)
        view.write_text(yaml.safe_dump({"stages": stages}))
        targets = [f"{graph.ledger(PROFILE)}:{stage}" for stage in STAGES]
        for words in (["init", "-q", "--no-scm"], ["commit", "-q", "-f", *targets]):
            subprocess.run(["dvc", *words], cwd=root, check=True)
    return root


@pytest.fixture
def clone(pulled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that repository, to be changed."""
    root = tmp_path / "clone"
    shutil.copytree(pulled, root)
    Runs(root, monkeypatch)
    monkeypatch.setattr(restore, "ROOT", root)
    return root


def records_of(stage: str) -> list[dict[str, Any]]:
    return read_records(graph.runs_folder(PROFILE, stage))


def test_the_record_says_what_is_here_and_that_it_was_pulled(clone: Path) -> None:
    assert take_in_pulled(PROFILE) == list(STAGES)
    for stage in STAGES:
        (record,) = records_of(stage)
        parts = code_files.key_parts(stage, PROFILE)
        assert record["key"] == status.stage_status(PROFILE)[stage].key
        assert record["parts"] == {**parts, "parameters": flatten(parts["parameters"])}
        assert record["outputs"] == graph.digests_of(PROFILE, graph.stage_graph(stage).outputs)
        assert record["metrics"] == read_object(graph.dataset_path(PROFILE, f"{stage}_metrics"), "-")
        assert (record["outcome"], record["seconds"]) == (PULLED, 0.0)
        assert record["origin"] == {"pulled": f"conf/{PROFILE}/dvc.lock"}
        assert record["host"]
    plan = status.stage_status(PROFILE)
    assert [plan[stage].state for stage in STAGES] == ["fresh", "fresh"]
    assert "pulled with conf/smoke/dvc.lock, not run here" in plan["corpus"].reason
    assert plan["corpus"].estimate is None, "no run here says how long one takes"


def test_it_is_written_once(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all stages have a record, DVC is not even asked."""
    take_in_pulled(PROFILE)
    monkeypatch.setenv("PATH", "")
    assert take_in_pulled(PROFILE) == []
    assert [len(records_of(stage)) for stage in STAGES] == [1, 1]


def metrics_changed(clone: Path) -> None:
    graph.dataset_path(PROFILE, "corpus_metrics").write_bytes(canonical_json({"loss": 1.0}))


def published_anew(clone: Path) -> None:
    publish(PROFILE, "corpus", "documents", {"other": 1})


def file_added(clone: Path) -> None:
    (graph.dataset_path(PROFILE, "documents") / "more.txt").write_text("?")


def output_missing(clone: Path) -> None:
    shutil.rmtree(graph.dataset_path(PROFILE, "documents"))


def parameter_changed(clone: Path) -> None:
    path = code_files.code_file("corpus", PROFILE)
    content = json.loads(path.read_bytes())
    content["parameters"]["corpus"]["seed"] = 98
    path.write_bytes(canonical_json(content))


def code_file_missing(clone: Path) -> None:
    code_files.code_file("corpus", PROFILE).unlink()


def entry_missing(clone: Path) -> None:
    edit_ledger(lambda stages: stages.pop("corpus"))


def output_not_in_the_entry(clone: Path) -> None:
    edit_ledger(lambda stages: stages["corpus"]["outs"].pop())


def edit_ledger(change: Callable[[dict[str, Any]], object]) -> None:
    path = ledger_path(PROFILE)
    content = yaml.safe_load(path.read_text())
    change(content["stages"])
    path.write_text(yaml.safe_dump(content))


ALONE = (metrics_changed, parameter_changed, code_file_missing, output_not_in_the_entry)
"""What concerns corpus alone: the documents, which rephrase reads, are as both entries name them."""
WITH_ITS_READER = (published_anew, file_added, output_missing, entry_missing)


@pytest.mark.parametrize("change", [*ALONE, *WITH_ITS_READER])
def test_what_dvc_lock_does_not_agree_with_gets_none(clone: Path, change: Callable[[Path], None]) -> None:
    change(clone)
    assert take_in_pulled(PROFILE) == (["rephrase"] if change in ALONE else [])
    assert not records_of("corpus")


def test_an_input_of_another_version_stops_the_record_of_its_reader(clone: Path) -> None:
    published_anew(clone)
    assert take_in_pulled(PROFILE) == []
    target = f"{graph.ledger(PROFILE)}:corpus"
    subprocess.run(["dvc", "commit", "-q", "-f", target], cwd=clone, check=True)
    assert take_in_pulled(PROFILE) == ["corpus"], "rephrase was made from the version before"
    assert not records_of("rephrase")


def test_a_directory_that_its_manifest_denies_gets_none(clone: Path) -> None:
    """DVC knows only its own hashes: what it was told to commit may be damaged."""
    content = graph.dataset_path(PROFILE, "documents") / "content.txt"
    content.write_text(content.read_text()[:-1] + "?")
    subprocess.run(["dvc", "commit", "-q", "-f", f"{graph.ledger(PROFILE)}:corpus"], cwd=clone, check=True)
    assert (content.parent / MANIFEST).is_file()
    assert "corpus" not in take_in_pulled(PROFILE)
