"""An imported checkpoint becomes its stage's output, with its origin on record; one that does not fit changes nothing.

tests/graph/test_adopt.py uses DVC itself; here there is no ledger.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from engine.artifacts.manifest import seal
from engine.errors import UserError
from engine.identity.records import read_records
from engine.model.checkpoint import load_checkpoint, load_config, save_checkpoint
from engine.model.export import export_checkpoint
from engine.model.model import K2Model
from engine.text import bpe
from engine.text.tokenizer import K2Tokenizer
from pipelines import graph, status
from pipelines.commands import adopt
from tests.engine.conftest import texts
from tests.engine.tiny import config

PROFILE = "smoke"


def make_tokenizer(directory: Path, max_digits: int = 1) -> Path:
    bpe.save(bpe.train(texts(), vocab_size=700, n_special=20, max_digits=max_digits), directory, context_length=64)
    return directory


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def data(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data folder with a tokenizer, and shards that no test reads."""
    entries = graph.catalog_entries(PROFILE)
    monkeypatch.setattr(graph, "data_folder", lambda profile: tmp_path / "data" / profile)
    monkeypatch.setattr(graph, "dataset_path", lambda profile, name: tmp_path / str(entries[name]["filepath"]))
    monkeypatch.setattr(adopt, "_tell_dvc", lambda *words: commands.append(words))
    commands.clear()
    folder = tmp_path / "data" / PROFILE
    shutil.copytree(tokenizer, folder / "tokenization" / "tokenizer")
    (folder / "tokenization" / "shards").mkdir()
    (folder / "tokenization" / "shards" / "x").write_text("x")
    for name in ("tokenizer", "shards"):
        seal(folder / "tokenization" / name, stage="tokenization", dataset=name, counts={})
    return folder


commands: list[tuple[str, ...]] = []


@pytest.fixture
def source(tmp_path: Path, tokenizer: Path) -> Path:
    """Return a whole checkpoint in Hugging Face's layout, with that tokenizer."""
    save_checkpoint(tmp_path / "ours", K2Model(config(vocab_size=700), seed=1), {})
    export_checkpoint(tmp_path / "ours", tokenizer, tmp_path / "source", "float32", 100_000)
    return tmp_path / "source"


def test_an_imported_checkpoint_is_its_stages_output_and_its_origin_is_on_record(data: Path, source: Path) -> None:
    adopt.adopt(PROFILE, source, "base_checkpoint")
    ours = load_checkpoint(graph.dataset(PROFILE, "base_checkpoint").load()).state_dict()
    for name, tensor in K2Model(config(vocab_size=700), seed=1).state_dict().items():
        assert torch.equal(ours[name], tensor), name
    (record,) = read_records(data / ".runs" / "pretrain")
    assert record["outcome"] == "adopted"
    assert record["origin"]["path"] == str(source)
    assert len(record["origin"]["digest"]) == 32
    assert record["outputs"] == {name: graph.digest_of(PROFILE, name) for name in record["outputs"]}
    assert all(record["outputs"].values())
    assert commands == [("pretrain", PROFILE)]
    assert not (data / ".work" / "pretrain" / "import").exists()
    assert str(source).encode() not in b"".join(path.read_bytes() for path in (data / "pretrain").rglob("*.json")), (
        "where it came from is no part of the artifact"
    )


def test_an_exported_rl_checkpoint_becomes_a_base_with_its_origin_on_record(
    data: Path, tmp_path: Path, tokenizer: Path
) -> None:
    described = {"stage": "rl", "iteration": 40, "trained_length": 99}
    save_checkpoint(tmp_path / "ours", K2Model(config(vocab_size=700), seed=1), described)
    export_checkpoint(tmp_path / "ours", tokenizer, tmp_path / "source", "float32", 100_000)
    adopt.adopt(PROFILE, tmp_path / "source", "base_checkpoint")
    _, extra = load_config(graph.dataset(PROFILE, "base_checkpoint").load())
    digest = K2Tokenizer.load(tokenizer).digest
    assert extra == {"stage": "pretrain", "tokenizer": digest, "trained_length": 64, "origin": described}


def test_a_base_checkpoint_comes_back_with_its_own_words_and_the_context_it_has(
    data: Path, tmp_path: Path, tokenizer: Path
) -> None:
    described = {"stage": "pretrain", "trained_length": 99, "note": "x"}
    save_checkpoint(tmp_path / "ours", K2Model(config(vocab_size=700), seed=1), described)
    export_checkpoint(tmp_path / "ours", tokenizer, tmp_path / "source", "float32", 100_000)
    adopt.adopt(PROFILE, tmp_path / "source", "base_checkpoint")
    _, extra = load_config(graph.dataset(PROFILE, "base_checkpoint").load())
    assert (extra["stage"], extra["trained_length"], extra["note"]) == ("pretrain", 64, "x")
    assert "origin" not in extra


def test_the_plan_counts_it_as_a_run_and_shows_its_origin(data: Path, source: Path) -> None:
    adopt.adopt(PROFILE, source, "base_checkpoint")
    (record,) = read_records(data / ".runs" / "pretrain")
    before = {"tokenization": status.StageStatus("tokenization", "fresh", "", None, None, None)}
    state = status._status("pretrain", PROFILE, before)
    assert (state.state, state.reason) == ("fresh", f"adopted from {source}")
    assert state.key == record["key"]


def foreign_tokenizer(source: Path) -> None:
    shutil.rmtree(source / "tokenizer", ignore_errors=True)
    make_tokenizer(source / "tokenizer", max_digits=3)
    shutil.copy(source / "tokenizer" / "tokenizer.json", source / "tokenizer.json")


def extended(source: Path) -> None:
    values = json.loads((source / "config.json").read_text())
    values["rope_scaling"] = {"type": "linear", "factor": 2.0}
    (source / "config.json").write_text(json.dumps(values))


def test_what_transformers_fine_tuned_and_saved_is_imported(data: Path, source: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "tuned")
    adopt.adopt(PROFILE, tmp_path / "tuned", "base_checkpoint")
    ours = load_checkpoint(graph.dataset(PROFILE, "base_checkpoint").load())
    assert torch.equal(ours.lm_head.weight, model.lm_head.weight)


def only_tiktoken(source: Path) -> None:
    (source / "tokenizer.json").rename(source / "tiktoken.model")


def other_template(source: Path) -> None:
    (source / "chat_template.jinja").write_text("{{ messages }}")


def other_template_in_the_settings(source: Path) -> None:
    (source / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages }}"}]
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))


@pytest.mark.parametrize(
    ("damage", "dataset", "named"),
    [
        (foreign_tokenizer, "base_checkpoint", r"was trained with tokenizer .* \(another .*merges.*pre_tokenizer\)"),
        (only_tiktoken, "base_checkpoint", "tokenizer.json does not exist: .*tiktoken.model alone is not read"),
        (other_template, "base_checkpoint", "another chat template"),
        (other_template_in_the_settings, "base_checkpoint", "another chat template"),
        (lambda source: (source / "tokenizer.json").write_text("{}"), "base_checkpoint", "give the checkpoint's dir"),
        (lambda source: (source / "tokenizer.json").unlink(), "base_checkpoint", "tokenizer.json does not exist"),
        (extended, "base_checkpoint", "import it with AS=extended_checkpoint"),
        (lambda source: None, "sft_checkpoint", "sft_checkpoint cannot be imported"),
        (shutil.rmtree, "base_checkpoint", "is no directory"),
        (lambda source: None, "extended_checkpoint", "make repro STAGE=pretrain"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(data, source, damage, dataset, named) -> None:
    damage(source)
    with pytest.raises(UserError, match=named):
        adopt.adopt(PROFILE, source, dataset)
    assert not (data / "pretrain").exists()
    assert not (data / "extend").exists()
    assert not read_records(data / ".runs" / "pretrain")
    assert commands == []
