"""The training stages with a model cut over two ranks: what one process gives, up to rounding, in whole files."""

import copy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from engine.model.checkpoint import load_checkpoint
from engine.optim.schedule import Schedule
from engine.parallel.data import from_first
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.mesh import laid_out
from engine.training.history import read_history
from nodes.extend.nodes import train_extend
from nodes.pretrain.nodes import train_pretrain
from nodes.rl.nodes import train_rl
from nodes.sft.nodes import build_examples, train_sft
from tests.engine.parallel.ranks import together
from tests.nodes import text, toy

pytestmark = pytest.mark.slow

STEPS = 6
SCHEDULE = Schedule.warmed_up(5e-3, 2, ("constant", STEPS - 4, None), ("linear", 2, 3.5e-4))
CHANGES: dict[str, dict[str, Any]] = {
    "pretrain": {"schedule": SCHEDULE, "validation": {"every": 3}, "baseline_orders": [2], "checkpoint_every": 4},
    "extend": {"schedule": SCHEDULE, "checkpoint_every": 4},
    "sft": {"steps": STEPS, "warmup_steps": 1, "batch": {"trajectory": 0, "values": 0}},
    "rl": {
        "iterations": 2,
        "select_every": 1,
        "tuning_prompts": 8,
        "evaluation_prompts": 10,
        "ptx": {"trajectory": 0},
        "tools": {"tuning_tasks": 2, "evaluation_tasks": 2},
    },
}


def parameters(stage: str) -> dict[str, Any]:
    smoke: dict[str, Any] = text.merge(copy.deepcopy(text.parameters(stage, "smoke")), CHANGES[stage])
    return smoke


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the stages read that are not trained: tokenizer, shards, and examples to fine-tune on."""
    root = tmp_path_factory.mktemp("inputs")
    tokenizer, shards = text.make(root)
    facts = "Chile - Geography\n\nCapital: Santiago\nCurrency: peso\nClimate: dry\nLanguage: Spanish\n"
    documents = pl.LazyFrame(
        {"title": ["Chile: Geography"], "text": [facts], "split": ["train"], "domain": ["knowledge"]}
    )
    no_dialogues = pl.LazyFrame(schema=dict.fromkeys(("id", "messages", "tools", "split"), pl.String))
    examples = build_examples(documents, no_dialogues, parameters("sft"), root)
    return {"tokenizer": tokenizer, "shards": shards, "examples": examples, "tasks": toy.tasks()}


Made = dict[str, tuple[Path, Path, dict[str, Any]]]
"""What each stage's node returns: checkpoint, history, metrics."""


def graph(rank: int, layout: Layout, inputs: dict[str, Any], work: Path) -> Made:
    """Run the training stages one after the other, in a rank's folders as in pipelines/rank."""
    made: Made = {}
    with laid_out(layout):
        for stage in CHANGES:
            own = work / stage / (f".ranks/{rank}" if rank else ".")
            own.mkdir(parents=True, exist_ok=True)
            data = inputs["tokenizer"], inputs["shards"]
            if stage == "pretrain":
                made[stage] = train_pretrain(*data, parameters(stage), own)
            elif stage == "extend":
                made[stage] = train_extend(*data, work / "pretrain/checkpoint", parameters(stage), own)
            elif stage == "rl":
                rest = work / "sft/checkpoint", inputs["examples"].lazy(), data[1], inputs["tasks"].lazy()
                checkpoint, _, history, metrics = train_rl(data[0], *rest, parameters(stage), own)
                made[stage] = checkpoint, history, metrics
            else:
                base, examples = work / "extend/checkpoint", inputs["examples"].lazy()
                made[stage] = train_sft(data[0], base, examples, data[1], parameters(stage), own)
            from_first(None)  # so that the checkpoint is there
    return made


@pytest.fixture(scope="module")
def alone(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return graph(0, WHOLE, inputs, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("layout", [Layout(ep=2), Layout(pp=2, schedule="zero_bubble")], ids=str)
def test_parts_of_a_model_on_two_ranks_train_to_what_one_process_gives(
    alone: Made, inputs: dict[str, Any], tmp_path: Path, layout: Layout
) -> None:
    first, second = together(2, graph, layout, inputs, tmp_path, seconds=240)
    for stage, (checkpoint, history, metrics) in first.items():
        whole_checkpoint, whole_history, whole_metrics = alone[stage]
        rows, expected = (read_history(of / "history.jsonl") for of in (history, whole_history))
        assert len(rows) == (4 if stage == "rl" else STEPS)
        for row, whole_row in zip(rows, expected, strict=True):
            assert row["loss"] == pytest.approx(whole_row["loss"], abs=1e-5)
            assert row["expert_load_max"] == whole_row["expert_load_max"]
            assert stage == "rl" or not row.get("skipped")
            assert row == pytest.approx(whole_row, rel=1e-3, abs=1e-5)
        words = {name for name, figure in metrics.items() if isinstance(figure, str)}
        for name, figure in whole_metrics.items():
            assert metrics[name] == (figure if name in words else pytest.approx(figure, rel=1e-5)), name
        model, whole = (load_checkpoint(of).state_dict() for of in (checkpoint, whole_checkpoint))
        assert model.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.allclose(model[name], tensor, rtol=0, atol=1e-4), f"{stage}: {name}"
        assert not second[stage][0].exists(), "the first rank alone writes the whole model"
