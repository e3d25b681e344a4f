"""`make why`, and the states behind it: what changed, through the chain of ancestors, on one screen."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.difference import ABSENT, Change, differences
from engine.identity.library import Library
from engine.identity.records import PULLED
from pipelines import graph, status
from pipelines.commands import why
from pipelines.commands.plan import total
from pipelines.stages_file import ROOT, load_stages_file
from tests.runs import Runs

PROFILE = "smoke"


@pytest.fixture(scope="module")
def now() -> dict[str, dict[str, Any]]:
    """Return each stage's present code and parameters."""
    from pipelines.code_files import stage_file

    with graph.library() as modules:
        return {stage: stage_file(stage, PROFILE, modules) for stage in load_stages_file().stages}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return runs in a scratch repository."""
    return Runs(tmp_path, monkeypatch)


@pytest.fixture
def fresh(runs, now, monkeypatch):
    """Return a scratch repository in which every stage is fresh: its last run had today's code and inputs."""
    from engine.identity.key import flatten, stage_key

    monkeypatch.setattr(status, "stage_file", lambda stage, *_: now[stage])
    for minute, stage in enumerate(load_stages_file().stages):
        record = runs.add(stage, minute)
        parts = {**now[stage], "inputs": record["parts"]["inputs"]}
        content = {name: value for name, value in record.items() if name != "path"}
        content |= {"parts": {**parts, "parameters": flatten(parts["parameters"])}, "key": stage_key(**parts)}
        write_atomic(record["path"], canonical_json(content))
    return runs


def explanation(stage: str) -> str:
    statuses = status.stage_status(PROFILE)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(why.Why(PROFILE, statuses, Library(ROOT)).tree(stage))
    text = console.export_text()
    assert all(len(line) <= 100 for line in text.splitlines())
    assert len(text.splitlines()) < 50, "one screen"
    return " ".join(text.split())


def other(now: dict[str, Any], stage: str, kind: str, name: str, value: str, patch: pytest.MonkeyPatch) -> None:
    """Give a stage today's code, but another hash for one part."""
    code = now[stage]["code"]
    assert name in code[kind]
    changed = {**now, stage: {**now[stage], "code": {**code, kind: {**code[kind], name: value}}}}
    patch.setattr(status, "stage_file", lambda one, *_: changed[one])


def test_all_is_fresh_with_key_and_time(fresh) -> None:
    statuses = status.stage_status(PROFILE)
    assert {state.state for state in statuses.values()} == {"fresh"}
    text = explanation("sft")
    assert text.startswith(f"sft is fresh: key {statuses['sft'].key}, since 2026-01-01 00:06, took 30 s")


def test_a_function_of_an_ancestor_is_named_with_its_line(fresh, now, monkeypatch) -> None:
    name = "engine.optim.muonclip.MuonClip"
    other(now, "pretrain", "definitions", name, "f" * 32, monkeypatch)
    text = explanation("sft")
    assert "sft is stale" in text
    assert "extended_checkpoint may change, because extend is stale" in text
    assert "base_checkpoint may change, because pretrain is stale" in text
    line = next(
        number
        for number, source in enumerate((ROOT / "engine/optim/muonclip.py").read_text().splitlines(), 1)
        if source.startswith("class MuonClip")
    )
    assert f"{name} changed engine/optim/muonclip.py:{line}" in text
    assert "→ ffffffffff" in text
    plan = status.stage_status(PROFILE)
    assert plan["pretrain"].reason == f"definition {name} changed"
    assert plan["sft"].reason == "its input stage extend is stale"
    assert plan["corpus"].state == "fresh"


def test_versions_and_files_and_parameters_old_to_new(fresh, now, monkeypatch) -> None:
    other(now, "rl", "distributions", "torch", "9.9.9", monkeypatch)
    version = now["rl"]["code"]["distributions"]["torch"]
    assert f"distribution torch: {version} → 9.9.9" in explanation("rl")
    other(now, "sft", "files", "engine/text/chat_template.jinja", "0" * 32, monkeypatch)
    assert "file engine/text/chat_template.jinja changed" in explanation("sft")
    changed = {**now, "sft": {**now["sft"], "parameters": {"sft": {**now["sft"]["parameters"]["sft"], "seed": -5}}}}
    monkeypatch.setattr(status, "stage_file", lambda one, *_: changed[one])
    seed = now["sft"]["parameters"]["sft"]["seed"]
    assert f"parameter sft.seed: {seed} → -5" in explanation("sft")


def test_an_input_that_was_made_again_is_listed_with_its_cause(fresh, now) -> None:
    """corpus ran again with another parameter; tokenization did not follow yet."""
    from engine.identity.key import flatten, stage_key

    record = fresh.add("corpus", 30, seed=77)
    parts = {**now["corpus"], "inputs": {}}
    then = {**flatten(parts["parameters"]), "corpus.seed": 77}
    content = {name: value for name, value in record.items() if name != "path"}
    write_atomic(
        record["path"], canonical_json({**content, "key": stage_key(**parts), "parts": {**parts, "parameters": then}})
    )
    assert status.stage_status(PROFILE)["corpus"].state == "fresh"
    text = explanation("tokenization")
    assert "input documents changed" in text
    assert "corpus made it 2026-01-01 00:30, before that 2026-01-01 00:00" in text
    assert "parameter corpus.seed" in text
    assert "→ 77" in text


def test_failed_and_missing_say_the_sentence(fresh) -> None:
    fresh.add("sft", 40, outcome="failed")
    assert explanation("sft").startswith("sft is fresh"), (
        "what was tried with other parameters, since taken back, is past"
    )
    fresh.add("sft", 41, outcome="failed", key=status.stage_status(PROFILE)["sft"].key)
    assert explanation("sft").startswith("sft is failed: the disk is full")
    text = explanation("rl")
    assert "sft is failed: the disk is full" in text


def test_never_run(runs, now, monkeypatch) -> None:
    monkeypatch.setattr(status, "stage_file", lambda stage, *_: now[stage])
    assert explanation("corpus") == "corpus is missing: never run"
    plan = status.stage_status(PROFILE)
    assert {state.state for state in plan.values()} == {"missing"}
    assert total(list(plan.values())) == "9 of 9 stages would run: unknown for 9 stages, never timed."


def test_outputs_without_a_run_record_are_not_said_to_be_lacking(fresh: Runs) -> None:
    """Such are those that `dvc pull` brought, since records stay on the machine that made them."""
    shutil.rmtree(fresh.root / "data" / PROFILE / ".runs" / "corpus")
    assert explanation("corpus") == (
        "corpus is missing: its outputs are here, no run record is: "
        "`make repro PROFILE=smoke` writes one where dvc.lock agrees with them"
    )


def test_what_was_pulled_is_fresh_and_not_said_to_have_run_here(fresh: Runs) -> None:
    (path,) = (fresh.root / "data" / PROFILE / ".runs" / "corpus").glob("*.json")
    record = json.loads(path.read_bytes())
    pulled = {"outcome": PULLED, "origin": {"pulled": "conf/smoke/dvc.lock"}, "seconds": 0.0}
    write_atomic(path, canonical_json({**record, **pulled}))
    text = explanation("corpus")
    assert text.startswith("corpus is fresh: key ")
    assert text.endswith("since 2026-01-01 00:00, pulled with conf/smoke/dvc.lock, not run here")
    assert status.stage_status(PROFILE)["corpus"].estimate is None
    documents = record["outputs"]["documents"]
    (reader,) = (fresh.root / "data" / PROFILE / ".runs" / "rephrase").glob("*.json")
    content = json.loads(reader.read_bytes())
    content["parts"]["inputs"]["documents"] = "0" * len(documents)
    write_atomic(reader, canonical_json({**content, "key": "f" * 16}))
    assert "corpus was pulled 2026-01-01 00:00" in explanation("rephrase")


def test_a_record_of_an_older_fingerprint_is_simply_stale(runs, now, monkeypatch) -> None:
    monkeypatch.setattr(status, "stage_file", lambda stage, *_: now[stage])
    runs.add("corpus", 1)
    state = status.stage_status(PROFILE)["corpus"]
    assert state.state == "stale"
    assert "made under an older fingerprint" in explanation("corpus")
    assert differences({"code": {"modules": {}}, "parameters": {}, "inputs": {}}, {**now["corpus"], "inputs": {}})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Change("definition", "a.f", ABSENT, "1"), "definition a.f is newly reached"),
        (Change("definition", "a.f", "1", ABSENT), "definition a.f is no longer reached"),
        (Change("parameter", "sft.seed", "1", ABSENT), "parameter sft.seed: 1 → absent"),
    ],
)
def test_a_change_in_words(change: Change, sentence: str) -> None:
    assert str(change) == sentence
