"""AdamW through DeepSpeed's ZeRO on gloo ranks, held against ours: weights, figures, checkpoints, kills, refusals."""

import json
import math
import shutil

import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.parallel import data
from engine.training.language import make_optimizer
from engine.training.loop import LoopSettings, train_loop
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from tests.deepspeed.conftest import in_ranks
from tests.engine.tiny import config
from tests.engine.training.run_tiny import Made, batch_at, falling

pytestmark = pytest.mark.slow

SETTINGS = {
    "kind": "adamw", "weight_decay": 0.1, "momentum": 0.95, "tau": 0.02, "adamw_lr_factor": 0.5,
    "newton_schulz_dtype": "float32", "grad_clip": 0.3,
    "nonfinite_steps": 2,
}  # fmt: skip
WAYS = {
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 1, offloaded": {"zero_stage": 1, "cpu_offload": True},
    "stage 2, offloaded": {"zero_stage": 2, "cpu_offload": True},
}


def settings(way):
    """Those of `OptimizerSettings` for one of WAYS, or of our own optimizer for None."""
    backend = {"backend": "ours"} if way is None else {"backend": "deepspeed", **WAYS[way]}
    return OptimizerSettings.model_validate(SETTINGS | backend)


def objective(model, batch):
    ids = batch["ids"]
    loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten())
    return loss * batch["factor"][0], {}


def train(rank, way, work, steps, every=2, spoil=None):
    """Train the tiny model with two micro-batches a rank of two; what it ends in, and the shares of the state.

    The loss of the step `spoil` is not a number.
    """
    chosen = settings(way)
    model = K2Model(config())
    state = TrainState(model, make_optimizer(model, 0.02, chosen))

    def whole(step):
        return batch_at(step) | {"factor": torch.full((4,), math.nan if step == spoil else 1.0)}

    loop = LoopSettings.of(
        chosen, steps=steps, checkpoint_every=every, threads=1, dtype="float32", micro_batches=4, heads_every=2
    )
    history = train_loop(
        state, Made(whole, 4), objective, falling(0.02), loop, work, "tiny", bias_rate_at=lambda step: 0.01
    )
    moments = {name: tensor.tolist() for name, tensor in state.tensors().items() if name.endswith("/exp_avg")}
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    rows = [json.loads(row) for row in history.read_text().splitlines()]
    return weights, rows, moments


def difference(ours, theirs):
    """The largest difference between two models' weights."""
    return max(
        float((torch.tensor(ours[name]) - torch.tensor(theirs[name])).abs().max()) for name in ours.keys() | theirs
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """What our own AdamW ends in after six steps, of two ranks."""
    return in_ranks(2, train, None, tmp_path_factory.mktemp("ours"), 6)[0]


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_end_where_ours_do_and_hold_half_of_the_moments_each(way, ours, tmp_path):
    """Some heads are clipped, gradients are clipped, biases move, and each rank takes two micro-batches a step."""
    weights, rows, _ = ours
    assert any(row["clipped_heads"] > 0 for row in rows)
    assert any(row["grad_norm"] > SETTINGS["grad_clip"] for row in rows)
    ranks = in_ranks(2, train, way, tmp_path, 6)
    for theirs, figures, _ in ranks:
        assert difference(weights, theirs) <= 1e-6
        for here, there in zip(rows, figures, strict=True):
            assert here.keys() == there.keys()
            numbers = [name for name in here if name != "max_logit_heads"]  # which are rounded
            assert [there[name] for name in numbers] == pytest.approx([here[name] for name in numbers], 1e-4, 1e-5)
    held = [{name: torch.tensor(moment).numel() for name, moment in rank[2].items()} for rank in ranks]
    whole = sum(p.numel() for p in K2Model(config()).parameters())
    assert sum(sum(of_rank.values()) for of_rank in held) == whole, "every row has one owner"
    assert all(abs(sum(of_rank.values()) - whole / 2) <= whole / 20 for of_rank in held)


def test_either_goes_on_from_a_checkpoint_of_the_other_at_another_number_of_ranks(ours, tmp_path):
    """ours, 1 rank → DeepSpeed, 2 ranks → ours, 1 rank → DeepSpeed, 1 rank: weights and moments come along."""
    weights, rows, _ = ours
    work = tmp_path / "work"
    train(0, None, work, 2)
    in_ranks(2, train, "stage 1", work, 3, 1)
    train(0, None, work, 4, every=4)
    in_ranks(1, train, "stage 2, offloaded", work, 5, 5)
    ((end, figures, _),) = in_ranks(1, train, None, work, 6)
    assert difference(weights, end) <= 1e-6
    assert [row["step"] for row in figures] == [1, 2, 3, 4, 5, 6]
    assert figures[-1]["last_clipped_step"] == rows[-1]["last_clipped_step"]


def test_a_run_that_is_left_half_way_ends_in_the_same_bits(tmp_path):
    way = "stage 2, offloaded"
    straight = in_ranks(2, train, way, tmp_path / "straight", 6)
    in_ranks(2, train, way, tmp_path / "cut", 4)
    shutil.rmtree(tmp_path / "cut/checkpoints/00000004")
    resumed = in_ranks(2, train, way, tmp_path / "cut", 6)
    assert json.loads((tmp_path / "cut/training.json").read_text())["resumed_at"] == 2
    assert resumed == straight


@pytest.fixture(scope="module")
def ours_spoilt(tmp_path_factory):
    """The same after four steps of which the second is skipped."""
    return in_ranks(2, train, None, tmp_path_factory.mktemp("spoilt"), 4, 2, 1)[0]


@pytest.mark.parametrize("way", ["stage 1", "stage 2, offloaded"])
def test_a_step_that_the_guard_skips_leaves_no_gradient_behind(way, ours_spoilt, tmp_path):
    weights, rows, _ = ours_spoilt
    assert [row.get("skipped") for row in rows] == [None, 1.0, None, None]
    for theirs, figures, _ in in_ranks(2, train, way, tmp_path, 4, 2, 1):
        assert difference(weights, theirs) <= 1e-6
        assert [row["skipped"] for row in figures if "skipped" in row] == [1.0]


def alone(rank, way, work):
    """What a process without a process group ends in, on whichever rank it is begun."""
    data.stop()
    return train(0, way, work, 3)


def test_a_process_alone_needs_no_ranks(tmp_path):
    """As on one GPU, whose memory the state in main memory does not take."""
    ((weights, _, _),) = in_ranks(1, alone, "stage 1, offloaded", tmp_path / "deepspeed")
    assert difference(weights, train(0, None, tmp_path / "ours", 3)[0]) <= 1e-6


def gradients_held(rank, way):
    """How many numbers of gradients a rank holds after a backward, and of summed ones after the reduction."""
    model = K2Model(config())
    state = TrainState(model, make_optimizer(model, 0.02, settings(way)))
    objective(model, batch_at(0) | {"factor": torch.ones(4)})[0].backward()
    after_backward = sum(p.grad.numel() for p in model.parameters() if p.grad is not None)
    state.gradients.reduce_()
    return after_backward, sum(gradient.numel() for gradient in state.optimizer.zero.averaged_gradients[0])


@pytest.mark.parametrize("way", ["stage 1", "stage 2"])
def test_stage_2_leaves_no_rank_the_gradients_of_others_after_the_backward(way):
    whole = sum(p.numel() for p in K2Model(config()).parameters())
    for after_backward, summed in in_ranks(2, gradients_held, way):
        assert after_backward == (whole if way == "stage 1" else 0)
        assert summed == pytest.approx(whole / 2, abs=2), "and some padding"


def forgotten(rank):
    """Whether the state is that of the start after it was forgotten, and what it holds before."""
    model = K2Model(config())
    state = TrainState(model, make_optimizer(model, 0.02, settings("stage 1")))
    for _ in range(2):
        objective(model, batch_at(0) | {"factor": torch.ones(4)})[0].backward()
        state.gradients.reduce_()
        state.optimizer.step()
        state.optimizer.zero_grad()
    before = sorted(state.optimizer.state_dict())
    state.optimizer.forget()
    return len(before), sorted(state.optimizer.state_dict())


def test_rl_can_have_it_forget_its_moments():
    for before, after in in_ranks(2, forgotten):
        assert before > 10
        assert after == ["clipped"]


def refused(rank):
    """The errors of states that do not fit."""
    model = K2Model(config())
    optimizer = make_optimizer(model, 0.02, settings("stage 1"))
    state = optimizer.state_dict()
    found = []
    for wrong in ({}, {**state, "muon/x": torch.zeros(1)}, {"clipped": torch.zeros(2)}):
        with pytest.raises(UserError, match="optimizer state: ") as error:
            optimizer.load_state_dict(wrong)
        found.append(str(error.value))
    return found


def test_a_state_of_another_optimizer_is_refused_by_name():
    ((missing, foreign, shape),) = in_ranks(1, refused)
    assert "clipped is absent" in missing
    assert "muon/x is " in foreign
    assert "clipped is " in shape
