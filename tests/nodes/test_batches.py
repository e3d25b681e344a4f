"""Batches of every training stage carry all that the loss reads, and any number of ranks trains on the same of them."""

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.optim.muonclip import MuonClip
from engine.optim.schedule import Schedule
from engine.parallel import data
from engine.parallel.data import ALONE
from engine.training.batches import Batch
from engine.training.history import read_history
from engine.training.loop import LoopSettings, train_loop
from engine.training.state import TrainState
from engine.training.step import backward
from nodes.rl.rollouts import Minibatch
from tests.engine.parallel.ranks import together
from tests.nodes import batches

STEPS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return batches.inputs(tmp_path_factory.mktemp("inputs"))


def gradients(state: TrainState, objective: Any, batch: Batch, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a batch's loss, and the gradient of every weight."""
    state.model.train()
    figures = backward(state, batch, objective, dtype, 1, None)
    return figures, {name: None if p.grad is None else p.grad.clone() for name, p in state.model.named_parameters()}


def elsewhere(rank: int, pickled: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same in another process, of what was pickled there; tensors return as lists."""
    figures, grads = gradients(*pickle.loads(pickled))
    return figures, {name: None if grad is None else grad.tolist() for name, grad in grads.items()}


@pytest.mark.parametrize("name", batches.STAGES)
def test_the_loss_needs_nothing_but_batch_and_state(name: str, root: Path, tmp_path: Path) -> None:
    """A process that has them pickled, and none of the files that they were made from, gets the same gradients."""
    inputs = shutil.copytree(root, tmp_path / "inputs")
    stage = batches.stage(name, inputs, tmp_path / "work")
    state = TrainState(stage.model, MuonClip(stage.model, 0.01))
    batch = stage.source.rows(1, ALONE)
    pickled = pickle.dumps((state, stage.objective, batch, stage.dtype))
    here = gradients(state, stage.objective, batch, stage.dtype)
    shutil.rmtree(inputs)
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    ((figures, grads),) = together(1, elsewhere, pickled)
    assert figures == here[0]
    assert float(figures["grad_norm"]) > 0
    assert grads == {weight: None if grad is None else grad.tolist() for weight, grad in here[1].items()}


def examples(batch: Batch) -> Counter[Any]:
    """The multiset of a batch's rows: windows, padded examples with their masks, turns with prompt and advantage."""
    rows: Counter[Any] = Counter(map(tuple, batch["ids"].tolist())) if "ids" in batch else Counter()
    for kind in [name.removesuffix("/valid") for name in batch if name.endswith("/valid")]:
        for ids, counted, valid in zip(*(batch[f"{kind}/{part}"].tolist() for part in ("ids", "counted", "valid"))):
            length = sum(valid)
            rows[kind, tuple(ids[:length]), tuple(counted[:length])] += 1
    for family in [name.removesuffix("/counts") for name in batch if name.endswith("/counts")]:
        part = Minibatch.of(batch, family)
        turns = part.turns
        for which, ids, length, response in zip(
            turns.which_T.tolist(), turns.ids_TW.tolist(), turns.lengths_T.tolist(), part.response_T.tolist()
        ):
            prompt = tuple(turns.prompts_NP[which].tolist()[-int(turns.prompt_lengths_N[which]) :])
            numbers = tuple(float(of[response]) for of in (part.counts_M, part.advantages_M, part.old_logprobs_M))
            rows[family, prompt, tuple(ids[:length]), numbers] += 1
    return rows


def totals(batch: Batch) -> dict[str, float]:
    return {name: float(tensor) for name, tensor in batch.items() if tensor.ndim == 0}


def train(rank: int, name: str, root: Path, work: Path) -> tuple[dict[str, Any], list[Any], list[dict[str, Any]]]:
    """Three steps of a stage in fp64 with clipping; the weights, what this rank's batches hold, the history."""
    stage = batches.stage(name, root, work / f"rollouts-{rank}", torch.float64)
    model = stage.model
    own = [stage.source.rows(step, data.ranks()) for step in range(STEPS)]
    held = [(examples(batch), totals(batch)) for batch in own]
    history = train_loop(
        TrainState(model, MuonClip(model, 0.02, tau=0.05, ns_dtype=torch.float64)),
        stage.source,
        stage.objective,
        Schedule.warmed_up(0.02, 0, ("constant", STEPS, None)),
        LoopSettings(STEPS, STEPS, 1, "float32", grad_clip=0.5),
        work / "training",
        name,
        bias_rate_at=lambda step: 0.01,
    )
    return {k: v.tolist() for k, v in model.state_dict().items()}, held, read_history(history)


@pytest.mark.parametrize("name", ["pretrain", "sft", "rl"])
def test_ranks_agree_with_one_process_and_train_on_the_same_tokens(name: str, root: Path, tmp_path: Path) -> None:
    weights, whole, history = train(0, name, root, tmp_path / "1")
    assert all(row["grad_norm"] > 0 for row in history)
    for size in (2, 4):
        results = together(size, train, name, root, tmp_path / str(size))
        for other, _, rows in results:
            assert other == results[0][0], "ranks hold the same bits"
            for row, expected in zip(rows, history, strict=True):
                assert row == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for step, (expected_rows, expected_totals) in enumerate(whole):
            held = [of_rank[step] for _, of_rank, _ in results]
            assert sum((rows for rows, _ in held), Counter()) == expected_rows
            assert all(own == expected_totals for _, own in held), "those of the whole step, on every rank"
        for weight, value in weights.items():
            there, here = (torch.tensor(of, dtype=torch.float64) for of in (results[0][0][weight], value))
            assert float((there - here).abs().max()) <= 1e-10, f"{weight} of {size} ranks"
