"""An objective's readings, which pipelines train on, and its whole-model form: the same loss, gradients and records."""

from typing import Any

import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.data import ALONE, Ranks
from engine.training.batches import Batch
from engine.training.padded import COUNTED
from engine.training.readings import Reading, added, aligned
from tests.engine.tiny import recorded
from tests.nodes import batches

STAGES = ("pretrain", "sft", "rl")
CLOSE: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-10}


@pytest.fixture(scope="module", params=STAGES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> batches.Stage:
    root = batches.inputs(tmp_path_factory.mktemp("inputs"))
    return batches.stage(request.param, root, tmp_path_factory.mktemp("work"), torch.float64)


def read(model: K2Model, readings: list[Reading]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The losses of readings, padded to one shape as in a pipeline, but of a whole model and one after the other."""
    parts = []
    for reading, (ids_BT, valid_BT) in zip(readings, aligned(readings), strict=True):
        rows, width = reading.ids_BT.shape
        hidden_BTD = model.hidden(ids_BT, valid_BT=valid_BT)
        parts.append(reading.loss(model.lm_head, hidden_BTD[:rows, :width]))
    return added(parts)


def measured(model: K2Model, loss: torch.Tensor) -> tuple[dict[str, torch.Tensor], Any]:
    """The gradients, which are dropped, and what the forwards recorded."""
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients, recorded(model)


def agree(stage: batches.Stage, batch: Batch) -> None:
    """Compare both forms on a batch."""
    model = stage.model.train()
    recorded(model)
    readings = stage.objective.readings(batch)
    results = []
    for form in (lambda: stage.objective(model, batch), lambda: read(model, readings)):
        loss, figures = form()
        results.append((loss.detach(), figures, *measured(model, loss)))
    (loss, figures, gradients, (maxima, counts)), (other, others, theirs, (tops, numbers)) = results
    torch.testing.assert_close(other, loss, **CLOSE)
    assert list(others) == list(figures)
    for name, value in figures.items():
        torch.testing.assert_close(torch.as_tensor(others[name]), torch.as_tensor(value), **CLOSE, check_dtype=False)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradient, gradients.get(name, torch.zeros_like(gradient)), **CLOSE, msg=name)
    assert set(gradients) <= set(theirs)
    torch.testing.assert_close(tops, maxima, atol=1e-5, rtol=1e-5)
    assert torch.equal(numbers, counts)


@pytest.mark.parametrize("step", [0, 1])
def test_readings_agree_with_the_whole_model(stage: batches.Stage, step: int) -> None:
    for ranks in (ALONE, Ranks(1, 3)):
        agree(stage, stage.source.rows(step, ranks))


def test_micro_batches_have_equally_many_readings(stage: batches.Stage) -> None:
    numbers = set()
    for ranks in (ALONE, Ranks(0, 7), Ranks(6, 7)):
        batch = stage.source.rows(0, ranks)
        numbers.add(len(stage.objective.readings(batch)))
    assert len(numbers) == 1


def test_a_batch_without_counted_tokens_reads_nothing_and_has_a_gradient_of_zero(stage: batches.Stage) -> None:
    batch = dict(stage.source.rows(0, ALONE))
    agree(stage, batch | {name: torch.zeros_like(mask) for name, mask in batch.items() if name.endswith(COUNTED)})
