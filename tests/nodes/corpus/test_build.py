import json
import random
from pathlib import Path

import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from engine.artifacts import tables
from engine.artifacts.tables import polars_schema
from engine.errors import UserError
from nodes.corpus import build, spool
from nodes.corpus.nodes import build_corpus
from nodes.corpus.schema import DOCUMENTS, REJECTED_DOCUMENTS, Parameters

BASE = yaml.safe_load(Path("conf/base/parameters/corpus.yml").read_text())["corpus"]


WORDS = ("the", "of", "and", "is", "to", "river", "stone", "city", "law", "music", "winter", "horse", "engine", "paper")


def parameters(sources, **changes):
    return {**BASE, "sources": sources, **changes}


def mine(path, **changes):
    return {"kind": "jsonl", "path": str(path), "domain": "web", "license": "CC0-1.0", "max_bytes": 10**6, **changes}


def prose(n):
    rng = random.Random(n)
    return " ".join(rng.choice(WORDS) + ("." if i % 9 == 8 else "") for i in range(80))


def built(given, workspace):
    """The stage's outputs, its tables whole."""
    documents, rejected, card, metrics = build_corpus(given, workspace)
    empty = [tables.empty(DOCUMENTS)], [tables.empty(REJECTED_DOCUMENTS)]
    return pl.concat([*empty[0], *documents]), pl.concat([*empty[1], *rejected]), card, metrics


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two runs over a few installed sources and a file, with workspaces of their own."""
    root = tmp_path_factory.mktemp("corpus")
    write(root / "notes.jsonl", [f"{n} {prose(n)}" for n in range(40)] + [f"3 {prose(3)}", f"4 {prose(4)} indeed"])
    sources = {
        "code": {**BASE["sources"]["cpython-source"], "modules": [0.0, 0.02], "max_bytes": 60_000},
        "docs": {**BASE["sources"]["cpython-docs"], "modules": [0.98, 1.0], "max_bytes": 60_000},
        "elements": {**BASE["sources"]["elements"], "max_bytes": 30_000},
        "factbook": {**BASE["sources"]["world-factbook"], "max_bytes": 60_000},
        "notes": mine(root / "notes.jsonl"),
    }
    runs = []
    for name in ("a", "b"):
        (root / name).mkdir()
        runs.append(built(parameters(sources, max_part_bytes=2000), root / name))
    return runs


def test_tables_have_their_schemas_and_are_not_empty(small):
    documents, rejected, _, _ = small[0]
    assert documents.schema == polars_schema(DOCUMENTS)
    assert rejected.schema == polars_schema(REJECTED_DOCUMENTS)
    assert set(documents["split"]) == {"train", "validation", "test"}
    assert documents["id"].is_unique().all()
    assert (documents["n_bytes"] == documents["text"].str.len_bytes()).all()
    assert set(documents["source"]) == {"code", "docs", "elements", "factbook", "notes"}


def test_a_rerun_is_identical(small):
    (documents, rejected, card, metrics), (again, rejected_again, card_again, metrics_again) = small
    assert documents.equals(again)
    assert rejected.equals(rejected_again)
    assert metrics == metrics_again
    for name in ("card.json", "card.md"):
        assert (card / name).read_bytes() == (card_again / name).read_bytes()


def test_duplicates_go_with_their_reason(small):
    documents, rejected, _, metrics = small[0]
    notes = rejected.filter(pl.col("source") == "notes")
    assert sorted(reason.split(" ")[0] for reason in notes["reason"]) == ["exact_duplicate", "near_duplicate"]
    kept = notes.filter(pl.col("reason").str.starts_with("near"))["reason"][0].removeprefix("near_duplicate of ")
    assert kept in documents["id"].to_list()
    assert metrics["exact_duplicates"] == rejected.filter(pl.col("reason") == "exact_duplicate").height


def test_parts_of_one_document_share_a_split(small):
    documents = small[0][0]
    parts = documents.filter(pl.col("title").str.contains(r"\(part \d+\)$")).with_columns(
        pl.col("title").str.replace(r" \(part \d+\)$", "").alias("whole")
    )
    assert parts.height > 20
    assert parts.group_by("source", "whole").agg(pl.col("split").n_unique())["split"].max() == 1


def test_the_card_states_origin_version_licence_and_adds_up(small):
    documents, rejected, directory, _ = small[0]
    card = json.loads((directory / "card.json").read_text())
    for name, source in card["sources"].items():
        assert source["origin"]
        assert source["version"]
        assert source["license"]
        assert source["documents"] == documents.filter(pl.col("source") == name).height
        assert sum(source["rejected"].values()) == rejected.filter(pl.col("source") == name).height
    assert card["bytes"] == documents["n_bytes"].sum()
    assert "mendeleev" in (directory / "card.md").read_text()


def test_the_corpus_does_not_depend_on_the_order_of_the_files(tmp_path):
    texts = [f"{n} {prose(n)}" for n in range(30)]
    results = []
    for name, order in (("a", texts), ("b", texts[::-1])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.jsonl", order[:10])
        write(tmp_path / name / "y.jsonl", order[10:])
        sources = {"notes": mine(tmp_path / name / "*.jsonl", max_bytes=8000)}
        results.append(built(parameters(sources), tmp_path / name)[0].drop("title"))
    assert 5 < results[0].height < 30
    assert results[0].equals(results[1])


def test_batches_and_files_of_any_size_hold_the_same_corpus(tmp_path, small, monkeypatch):
    monkeypatch.setattr(spool, "BATCH_BYTES", 3000)
    monkeypatch.setattr(spool, "BATCH_ROWS", 5)
    monkeypatch.setattr(build, "PART_BYTES", 20_000)
    monkeypatch.setattr(build, "ROW_GROUP", 2)
    texts = [f"{n} {prose(n)}" for n in range(200)] + [f"{n % 60} {prose(n % 60)}" for n in range(120)]
    write(tmp_path / "x.jsonl", [*texts, *(f"{n} {prose(n)} indeed" for n in range(30)), "short"])
    given = parameters({"notes": mine(tmp_path / "x.jsonl"), "more": mine(tmp_path / "x.jsonl", max_bytes=20_000)})
    documents, rejected, _, metrics = build_corpus(given, tmp_path)
    parts, refused = list(documents), list(rejected)
    assert len(parts) > 3
    assert max(part["n_bytes"].sum() for part in parts) <= 20_000
    assert max(part.height for part in refused) == 2
    monkeypatch.undo()
    whole, all_refused, _, same = built(given, tmp_path)
    assert pl.concat(parts).equals(whole)
    assert pl.concat(refused).equals(all_refused)
    assert metrics == same
    assert whole["id"].is_sorted()
    assert all_refused["id"].is_sorted()
    assert int(pl.concat([whole["source"], all_refused["source"]]).eq("notes").sum()) == 351


def test_a_corpus_of_nothing_is_refused(tmp_path):
    write(tmp_path / "x.jsonl", ["short"])
    with pytest.raises(UserError, match="refuses every document"):
        build_corpus(parameters({"notes": mine(tmp_path / "x.jsonl")}), tmp_path)


@pytest.mark.parametrize("kind", ["pdf", None])
def test_an_unknown_kind_of_source_is_named(kind):
    with pytest.raises(UserError, match=r"corpus\.sources\.notes\.kind is .*parquet, jsonl, text"):
        Parameters.model_validate(parameters({"notes": {**mine("x"), "kind": kind}}))


@pytest.mark.parametrize(
    "broken",
    [
        {"sources": {}},
        {"sources": {"notes": {**mine("x"), "colour": "red"}}},
        {"sources": {"notes": {**mine("x"), "domain": "poetry"}}},
        {"sources": {"code": {**BASE["sources"]["cpython-source"], "modules": [0.5, 0.5]}}},
        {"quality": {"code": BASE["quality"]["code"]}},
        {"near_duplicates": {**BASE["near_duplicates"], "cluster_similarity": 0.9}},
        {"max_parts": 0},
    ],
)
def test_parameters_that_make_no_sense_are_refused(broken):
    with pytest.raises(ValidationError):
        Parameters.model_validate({**BASE, **broken})


def test_near_duplicates_never_straddle_splits(tmp_path):
    # 60 families of three texts, alike enough to share a split and not enough to be removed
    texts = [f"{prose(n)} {prose(n + 1)} {' '.join([f'tail{n}x{k}'] * 25)}" for n in range(60) for k in range(3)]
    write(tmp_path / "x.jsonl", texts)
    loose = {**BASE["near_duplicates"], "bands": 56, "rows": 2, "duplicate_similarity": 1.0, "cluster_similarity": 0.4}
    quality = {**BASE["quality"], "web": {**BASE["quality"]["web"], "min_stop_words": 0.0}}
    sources = {"notes": mine(tmp_path / "x.jsonl")}
    documents = built(parameters(sources, near_duplicates=loose, quality=quality), tmp_path)[0]
    families = documents.with_columns(pl.col("text").str.extract(r"tail(\d+)x").alias("family"))
    assert families.group_by("family").agg(pl.col("split").n_unique())["split"].max() == 1
