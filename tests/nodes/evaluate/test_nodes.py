"""The node from end to end on four tiny checkpoints: repeatable, resumable, whole."""

import json

import polars as pl
import pytest
from pydantic import ValidationError

from engine.artifacts.files import digest_bytes
from engine.errors import UserError
from engine.model.checkpoint import save_checkpoint
from nodes.evaluate.nodes import evaluate_checkpoints
from nodes.evaluate.schema import Parameters
from nodes.evaluate.suites.registry import SUITES

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 1, "beta_slow": 1,
        "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def evaluate(tok, shards, data, p, tmp_path_factory, make_tiny):
    home = tmp_path_factory.mktemp("stage")
    (home / "tokenizer").mkdir()
    for index, name in enumerate(("base", "extended", "sft", "rl")):
        save_checkpoint(home / name, make_tiny(index, None if name == "base" else YARN), {"stage": name})
    documents = data.documents.with_columns(
        source=pl.lit("atlas"), license=pl.lit("public"), n_bytes=pl.col("text").str.len_bytes().cast(pl.Int64)
    )

    def run(workspace, **changed):
        workspace.mkdir(parents=True, exist_ok=True)
        return evaluate_checkpoints(
            tokenizer=tok.home, shards=shards.directory, documents=documents, tasks=data.tasks,
            base_checkpoint=home / "base", extended_checkpoint=home / "extended", sft_checkpoint=home / "sft",
            rl_checkpoint=home / "rl", pretrain_metrics={"bigram_bits_per_byte": 2.5, "validation_bits_per_byte": 2.0},
            extend_metrics={}, sft_metrics={"pass_rate_tuning": 0.3}, rl_metrics={},
            parameters=p.model_dump(mode="json") | changed, workspace=workspace,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def first(evaluate, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("first")
    return workspace, *evaluate(workspace)


def digests(directory):
    return {p.relative_to(directory): digest_bytes(p.read_bytes()) for p in directory.rglob("*") if p.is_file()}


def test_report_and_metrics_are_whole(first):
    _, report, metrics = first
    assert {"report.md", "report.html", "model_card.md", "samples.md", "table.json"} <= {
        p.name for p in report.iterdir()
    }
    for name in ("bits_per_byte_all_base", "arithmetic_sampled_rl", "tools_success_sampled_sft", "quiz_all_extended",
                 "lengths_last_quarter_base", "arithmetic_sampled_change_rl_low"):  # fmt: skip
        assert isinstance(metrics[name], float), name
    card = (report / "model_card.md").read_text()
    assert "atlas" in card
    assert "pass_rate_tuning" in card
    assert "(nothing)" not in card


def test_rerun_is_byte_identical(evaluate, first, tmp_path):
    _, report, metrics = first
    again, metrics_again = evaluate(tmp_path / "again")
    assert digests(again) == digests(report)
    assert metrics_again == metrics


def test_killed_run_measures_only_what_is_missing(evaluate, first, monkeypatch):
    workspace, report, _ = first
    before = digests(report)
    (workspace / "results" / "sft-quiz.json").unlink()
    clocks = (workspace / "timing.jsonl").read_text().splitlines()
    assert len(clocks) == 4 * len(SUITES)
    evaluate(workspace)
    new = [json.loads(line)["what"] for line in (workspace / "timing.jsonl").read_text().splitlines()[len(clocks) :]]
    assert new == ["sft-quiz"]
    assert digests(report) == before


def test_a_window_beyond_the_base_context_is_refused_by_field(evaluate, p, tmp_path):
    wide = p.bits_per_byte.model_copy(update={"window": 4096}).model_dump()
    with pytest.raises(UserError, match=r"evaluate\.bits_per_byte\.window"):
        evaluate(tmp_path / "wide", bits_per_byte=wide)


def test_base_and_smoke_parameters_are_valid_and_unknown_keys_refused(base_of, smoke_of):
    base = base_of("evaluate")
    Parameters.model_validate(base)
    merged = {k: {**v, **smoke_of("evaluate").get(k, {})} if isinstance(v, dict) else v for k, v in base.items()}
    Parameters.model_validate(merged)
    with pytest.raises(ValidationError, match="episode"):
        Parameters.model_validate(base | {"tools": {**base["tools"], "episode": 3}})
