"""The RL benchmark's three arms for real, on a toy, through the command line."""

import json

import polars as pl
import pytest

from benchmarks import rl
from benchmarks.__main__ import main
from engine.model.checkpoint import save_checkpoint
from nodes.sft.nodes import build_examples
from tests.nodes import toy

TASK = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
CHANGES = {
    "sft": {
        "task": TASK, "threads": 1, "tuning_prompts": 4,
        "batch": {"chat": 0, "trajectory": 0, "values": 0, "demonstration": 8},
        "natural": {"windows": 0, "tokens": 16, "weight": 0.0},
    },
    "rl": {
        "task": TASK, "threads": 1, "iterations": 2, "prompts": 4, "samples": 4, "warmup_steps": 1, "select_every": 1,
        "tuning_prompts": 4, "tuning_samples": 1, "evaluation_prompts": 6, "evaluation_samples": 1, "max_new_tokens": 3,
        "ptx": {"weight": 0.0, "chat": 0, "trajectory": 0, "natural": 0, "natural_tokens": 16, "max_tokens": 64},
        "tools": {
            "tasks": 2, "samples": 2, "max_new_tokens": 4, "weight": 1.0, "temperature": 1.0, "tuning_tasks": 1,
            "tuning_samples": 1, "evaluation_tasks": 2, "evaluation_samples": 1,
        },
    },
}  # fmt: skip


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A toy's tokenizer, checkpoint and examples; `shards` only has to exist."""
    real = rl.stage_parameters
    monkeypatch.setattr(rl, "stage_parameters", lambda stage, profile: {**real(stage, profile), **CHANGES[stage]})
    monkeypatch.setattr(rl, "LEAST_PROMPTS", 1)
    monkeypatch.setattr(rl, "CALIBRATION_STEPS", 2)
    toy.tokenizer(tmp_path / "tokenizer")
    save_checkpoint(tmp_path / "checkpoint", toy.model(), {})
    (tmp_path / "shards").mkdir()
    (tmp_path / "examples").mkdir()
    (tmp_path / "tasks").mkdir()
    toy.tasks().write_parquet(tmp_path / "tasks" / "part.parquet")
    documents = pl.LazyFrame(schema=dict.fromkeys(("title", "text", "split", "domain"), pl.String))
    dialogues = pl.LazyFrame(schema=dict.fromkeys(("id", "messages", "tools", "split"), pl.String))
    table = build_examples(documents, dialogues, rl.stage_parameters("sft", "laptop"), tmp_path)
    table.write_parquet(tmp_path / "examples" / "part.parquet")
    return tmp_path


def test_three_arms_of_one_seed_make_a_report(inputs):
    paths = [f"--{name}={inputs / name}" for name in ("tokenizer", "checkpoint", "examples", "shards", "tasks", "work")]
    result = inputs / "result.json"
    command = ["rl", "--json", str(result), *paths, "--seeds", "7"]
    assert main([*command, "--units", "2"]) == 3
    assert not result.exists()
    assert main(command) in (0, 1)  # a toy need not learn; the report must be there
    record = json.loads(result.read_text())
    assert len(record["rows"]) == 3 + 3 + 3 + 4
    tools = [row for row in record["rows"] if row["case"].startswith("tools, ")]
    assert [row["target"] for row in tools] == ["interval above zero", None, None, ">= 15", None, None, None]
    results = record["settings"]["results"]
    assert set(results) == {"7-rl", "7-permuted", "7-sft"}
    # a toy takes a second, and both are rounded to a tenth of one
    assert results["7-sft"]["cpu_seconds"] + 0.1 >= 0.5 * results["7-rl"]["cpu_seconds"]
    assert (
        results["7-rl"]["reward_before"] == results["7-sft"]["reward_before"] == results["7-permuted"]["reward_before"]
    )
    assert not list((inputs / "work").glob("*/run"))
