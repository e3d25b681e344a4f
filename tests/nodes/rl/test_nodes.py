"""The two training nodes on a toy, end to end: outputs, determinism, resume after a kill, and the step not taken."""

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from engine.artifacts.files import digest_file
from engine.errors import UserError
from engine.launch import drain
from engine.model.checkpoint import load_checkpoint, save_checkpoint
from engine.model.tensorfile import WEIGHTS
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out
from engine.text.tokenizer import K2Tokenizer
from engine.training import padded
from engine.training.examples import encode
from engine.training.history import read_history
from nodes.rl import candidates, loss, policy, rollouts
from nodes.rl.nodes import train_rl
from nodes.rl.schema import ROLLOUTS
from nodes.sft import train
from nodes.sft.nodes import build_examples, train_sft
from nodes.sft.schema import SFT_EXAMPLES
from tests.engine.parallel.ranks import together
from tests.nodes import toy

TASK = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def parameters(stage, **changes):
    with open(f"conf/base/parameters/{stage}.yml") as file:
        return {**yaml.safe_load(file)[stage], "task": TASK, "threads": 1, "tuning_prompts": 8, **changes}


SFT = {
    "steps": 6, "warmup_steps": 1, "tuning_samples": 1,
    "batch": {"chat": 2, "trajectory": 1, "values": 0, "demonstration": 16},
    "natural": {"windows": 2, "tokens": 16, "weight": 1.0},
}  # fmt: skip
RL = {
    "iterations": 4, "prompts": 6, "samples": 4, "warmup_steps": 1, "select_every": 2, "checkpoint_every": 1,
    "evaluation_prompts": 10, "evaluation_samples": 1, "tuning_samples": 1, "max_new_tokens": 3,
    "ptx": {"weight": 0.1, "chat": 2, "trajectory": 0, "natural": 2, "natural_tokens": 16, "max_tokens": 128},
    "tools": {
        "tasks": 0, "samples": 2, "max_new_tokens": 8, "weight": 1.0, "temperature": 1.0, "tuning_tasks": 2,
        "tuning_samples": 1, "evaluation_tasks": 3, "evaluation_samples": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Tokenizer, base checkpoint, examples and a fine-tuned checkpoint."""
    root = tmp_path_factory.mktemp("stage")
    toy.shards(toy.tokenizer(root / "tokenizer"), root / "shards")
    save_checkpoint(root / "base", toy.model(), {})
    facts = "Chile - Geography\n\nCapital: Santiago\nCurrency: peso\nClimate: dry\nLanguage: Spanish\n"
    documents = pl.LazyFrame(
        {"title": ["Chile: Geography"], "text": [facts], "split": ["train"], "domain": ["knowledge"]}
    )
    messages = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    dialogues = pl.LazyFrame(
        {"id": ["a", "b"], "messages": [messages] * 2, "tools": ["[]"] * 2, "split": ["train", "validation"]}
    )
    examples = build_examples(documents, dialogues, parameters("sft", **SFT), root)
    (root / "sft").mkdir()
    checkpoint, history, metrics = train_sft(
        root / "tokenizer", root / "base", examples.lazy(), root / "shards", parameters("sft", **SFT), root / "sft"
    )
    return root, examples, checkpoint, history, metrics


def reinforce(stage, workspace: Path, **changes):
    root, examples, checkpoint, _, _ = stage
    workspace.mkdir(exist_ok=True)
    return train_rl(
        root / "tokenizer",
        checkpoint,
        examples.lazy(),
        root / "shards",
        toy.tasks().lazy(),
        parameters("rl", **{**RL, **changes}),
        workspace,
    )


def test_examples_have_the_declared_columns_and_every_kind_in_both_splits(stage):
    _, examples, *_ = stage
    assert examples.columns == list(SFT_EXAMPLES)
    kinds = examples.group_by("kind", "split").len()
    assert kinds.height == 6


def test_fine_tuning_lowers_the_loss_and_reports(stage):
    _, _, checkpoint, history, metrics = stage
    rows = [json.loads(line) for line in (history / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert metrics["validation_loss_demonstration"] < metrics["validation_loss_demonstration_before"]
    assert 0 <= metrics["pass_rate_tuning"] <= 1
    assert (history / "loss_by_kind.png").exists()
    load_checkpoint(checkpoint)


def test_fine_tuning_in_micro_batches_takes_the_same_first_step(stage, tmp_path):
    root, examples, _, history, _ = stage
    settings = parameters("sft", **SFT, micro_batches=3) | {"steps": 2}
    _, parts, _ = train_sft(root / "tokenizer", root / "base", examples.lazy(), root / "shards", settings, tmp_path)
    whole, cut = (json.loads((of / "history.jsonl").read_text().splitlines()[0]) for of in (history, parts))
    for figure in (
        "loss",
        "loss_chat",
        "loss_natural",
        "loss_trajectory",
        "loss_demonstration",
        "grad_norm",
        "max_logit",
    ):
        assert cut[figure] == pytest.approx(whole[figure], rel=1e-5)


def test_reinforcement_gives_its_four_outputs(stage, tmp_path):
    checkpoint, table, history, metrics = reinforce(stage, tmp_path)
    frame = table.collect()
    assert frame.columns == list(ROLLOUTS)
    assert frame.height == 4 * 6 * 4
    assert frame["iteration"].to_list() == sorted(frame["iteration"].to_list())
    assert metrics["reward_gain_low"] <= metrics["reward_gain"] <= metrics["reward_gain_high"]
    assert [row["iteration"] for row in json.loads((history / "candidates.json").read_text())] == [0, 2, 4]
    assert (history / "curves.png").exists()
    load_checkpoint(checkpoint)


def test_tasks_of_the_tool_world_are_a_second_family_of_rewards(stage, tmp_path, monkeypatch):
    """Rewards by place, so that there is something to learn; whole episodes are trained on."""
    monkeypatch.setattr(rollouts, "penalised", some_right)
    changes = {"tools": {**RL["tools"], "tasks": 2}, "iterations": 2}
    checkpoint, table, history, metrics = reinforce(stage, tmp_path, **changes)
    by_family = table.collect().group_by("family").len()
    assert dict(by_family.iter_rows()) == {"sums": 2 * 6 * 4, "tools": 2 * 2 * 2}
    rows = [json.loads(line) for line in (history / "history.jsonl").read_text().splitlines()]
    assert all(row["tools_informative"] == 1.0 and row["tools_kl"] >= 0 for row in rows)
    assert metrics["tools_evaluation_prompts"] == 3
    assert metrics["tools_reward_gain_low"] <= metrics["tools_reward_gain"] <= metrics["tools_reward_gain_high"]
    before, after = load_checkpoint(stage[2]).state_dict(), load_checkpoint(checkpoint).state_dict()
    assert before.keys() == after.keys()


def test_a_family_without_enough_tasks_is_refused_by_its_split(stage, tmp_path):
    with pytest.raises(UserError, match=r"rl\.tools asks for 500 tasks of the split 'validation'"):
        reinforce(stage, tmp_path, tools={**RL["tools"], "tasks": 2, "tuning_tasks": 500})


class Killed(BaseException):
    pass


def some_right(scores, truncated, penalty):
    """Rewards by place: an untrained toy is never right, nor does it end a response."""
    return [float(place % 3 == 0) for place in range(len(scores))]


def spoiled(function, call):
    """`function`, the loss of whose `call`-th call (from 0) is NaN."""
    calls = iter(range(1000))

    def called(*given, **named):
        result = function(*given, **named)
        factor = float("nan") if next(calls) == call else 1.0
        return (
            (result[0] * factor, {k: v * factor for k, v in result[1].items()})
            if isinstance(result, tuple)
            else (result * factor)
        )

    return called


@pytest.mark.parametrize("call", [0, 3])
def test_a_tolerated_step_without_a_finite_loss_does_not_spoil_the_end(stage, tmp_path, monkeypatch, call):
    root, examples, *_ = stage
    monkeypatch.setattr(rollouts, "penalised", some_right)
    monkeypatch.setattr(padded, "group_loss", spoiled(padded.group_loss, call))
    monkeypatch.setattr(loss, "squared_objective", spoiled(loss.squared_objective, call))
    tolerant = {"optimizer": {**parameters("sft")["optimizer"], "nonfinite_steps": 2}}
    (tmp_path / "sft").mkdir()
    _, history, metrics = train_sft(
        root / "tokenizer",
        root / "base",
        examples.lazy(),
        root / "shards",
        parameters("sft", **SFT, **tolerant),
        tmp_path / "sft",
    )
    assert metrics["steps_skipped"] == metrics["spikes"] == 1
    assert (history / "loss_by_kind.png").exists()
    tolerant = {"optimizer": {**parameters("rl")["optimizer"], "nonfinite_steps": 2}}
    _, _, history, metrics = reinforce(stage, tmp_path / "rl", **tolerant)
    rows = [json.loads(line) for line in (history / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("nonfinite")] == [call + 1]
    assert metrics["spikes"] == 1
    assert (history / "curves.png").exists()


def test_a_run_that_is_killed_or_drained_goes_on_and_ends_in_the_same_bytes(stage, tmp_path, monkeypatch):
    """Asked to end soon, it leaves after an iteration, whose steps share their responses; checkpoints are rarer."""
    monkeypatch.setattr(rollouts, "penalised", some_right)
    whole = reinforce(stage, tmp_path / "whole")
    assert whole[3]["steps_skipped"] == 0

    def killed(model, family, iteration, p, calls=[]):  # noqa: B006
        calls.append(iteration)
        if iteration == 3:
            raise Killed
        return rollouts.collect(model, family, iteration, p)

    monkeypatch.setattr(policy, "collect", killed)
    with pytest.raises(Killed):
        reinforce(stage, tmp_path / "cut")
    monkeypatch.setattr(policy, "collect", rollouts.collect)
    resumed = reinforce(stage, tmp_path / "cut")

    monkeypatch.setattr(drain, "end_requested", lambda: True)
    for _ in range(RL["iterations"] - 1):
        with pytest.raises(drain.Drained):
            reinforce(stage, tmp_path / "drained", checkpoint_every=4)
    for other in (resumed, reinforce(stage, tmp_path / "drained", checkpoint_every=4)):
        for a, b in ((whole[0], other[0]), (whole[2], other[2])):
            assert {f.name: f.read_bytes() for f in a.iterdir()} == {f.name: f.read_bytes() for f in b.iterdir()}
        assert whole[3] == other[3]
        assert whole[1].collect().equals(other[1].collect())


def test_no_step_where_no_prompt_is_informative(stage, tmp_path, monkeypatch):
    """Equal rewards everywhere: momentum, weight decay and PTX must not move the weights either."""
    monkeypatch.setattr(rollouts, "penalised", lambda scores, truncated, penalty: [0.0] * len(scores))
    optimizer = {**parameters("rl")["optimizer"], "weight_decay": 0.5}
    checkpoint, _, history, metrics = reinforce(stage, tmp_path, optimizer=optimizer)
    assert metrics["steps_skipped"] == 8
    before, after = load_checkpoint(stage[2]).state_dict(), load_checkpoint(checkpoint).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "Infinity" not in (history / "history.jsonl").read_text()


def on_two(rank, stage, workspace):
    own = workspace / ".ranks/1" if rank else workspace
    own.mkdir(parents=True, exist_ok=True)
    judged = []
    write = candidates.write_atomic
    candidates.write_atomic = lambda *given: judged.append(rank) or write(*given)
    rollouts.penalised = some_right
    checkpoint, table, _, metrics = reinforce(stage, own)
    return (
        metrics,
        table.collect()["iteration"].n_unique(),
        judged,
        digest_file(checkpoint / WEIGHTS),
    )


def test_a_run_that_one_process_began_goes_on_with_two(stage, tmp_path, monkeypatch):
    """The second one finds candidates and rollouts of before; one of them writes the verdicts."""

    def killed(model, family, iteration, p):
        if iteration == 3:
            raise Killed
        return rollouts.collect(model, family, iteration, p)

    monkeypatch.setattr(rollouts, "penalised", some_right)
    monkeypatch.setattr(policy, "collect", killed)
    with pytest.raises(Killed):
        reinforce(stage, tmp_path)
    (first, iterations, judged, weights), second = together(2, on_two, stage, tmp_path)
    assert first == second[0]
    assert iterations == second[1] == 4
    assert (set(judged), second[2]) == ({0}, []), "the first rank alone writes"
    assert weights == second[3]


def cut_in_two(rank, stage, workspace, layout):
    """What one of two ranks with half of the experts or of the layers each returns."""
    with laid_out(layout):
        own = workspace / ".ranks/1" if rank else workspace
        own.mkdir(parents=True, exist_ok=True)
        rollouts.penalised = some_right
        checkpoint, table, history, metrics = reinforce(stage, own, dtype="bfloat16", iterations=2)
        return checkpoint, table.collect(), history, metrics


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout(ep=2), Layout(pp=2, schedule="interleaved_1f1b_warmup")], ids=str)
def test_in_bf16_a_model_cut_over_two_ranks_gives_what_one_process_does(stage, tmp_path, monkeypatch, layout):
    """The trainer computes the old log-probabilities of a rank's own responses, which may be more than the other's."""
    monkeypatch.setattr(rollouts, "penalised", some_right)
    (tmp_path / "one").mkdir()
    checkpoint, table, history, metrics = reinforce(stage, tmp_path / "one", dtype="bfloat16", iterations=2)
    first, second = together(2, cut_in_two, stage, tmp_path / "two", layout)
    assert metrics["steps_skipped"] == 0
    assert first[1]["response"].to_list() == second[1]["response"].to_list() == table.collect()["response"].to_list()
    close = {"rel": 0.1, "abs": 0.02}
    assert first[3] == second[3] == pytest.approx(metrics, **close)
    rows, expected_rows = (read_history(of / "history.jsonl") for of in (first[2], history))
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected, **close)
    before, after, whole = (load_checkpoint(of).state_dict() for of in (stage[2], first[0], checkpoint))
    for name, tensor in whole.items():
        assert torch.linalg.vector_norm(after[name] - tensor) <= 0.1 * torch.linalg.vector_norm(tensor - before[name])
    assert not second[0].exists(), "the first rank alone writes the whole model"


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-Infinity"])
def test_a_candidate_without_a_finite_score_is_not_chosen(tmp_path, rate):
    judged = candidates.Candidates.__new__(candidates.Candidates)
    judged.directory = tmp_path
    for iteration, score in enumerate(["0.5", rate, "0.25"]):
        (tmp_path / f"{iteration:06d}").mkdir()
        (tmp_path / f"{iteration:06d}" / "verdict.json").write_text(
            f'{{"iteration": {iteration}, "pass_rate": {score}}}'
        )
    with pytest.raises(UserError, match="000001/verdict.json: pass_rate is "):
        judged.best()


def test_a_validation_loss_that_is_not_finite_is_told_not_left_out(stage):
    root, examples, checkpoint, *_ = stage
    model, tok = load_checkpoint(checkpoint), K2Tokenizer.load(root / "tokenizer")
    encoded = encode(examples.iter_rows(named=True), tok, 512)
    assert all(math.isfinite(loss) for loss in train.validation_nll(model, encoded).values())
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    assert all(math.isnan(loss) for loss in train.validation_nll(model, encoded).values())
