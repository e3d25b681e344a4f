"""What ranks tell each other, in real gloo processes; and training on 1, 2 and 4 of them."""

import math
import os
import signal
import time

import pytest
import torch
import torch.nn.functional as F

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.optim.schedule import Phase, Schedule
from engine.parallel import data
from engine.training.history import read_history
from engine.training.loop import LoopSettings, train_loop
from engine.training.state import TrainState
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config
from tests.engine.training.run_tiny import Made

ODD = [float("nan"), float("inf"), float("-inf"), -1.0, 7.0]


def talk(rank, size):
    """Every collective once; NaN, inf and -inf on each rank in turn."""
    figures = torch.tensor([[ODD[0], ODD[1], ODD[2], ODD[3] - rank, ODD[4] + rank]]).repeat(size, 1)
    mine = torch.full((size, 5), -100.0)
    mine[rank] = figures[rank]
    mine[:, 2] = float("-inf")
    data.max_([mine[:, :2], rest := mine[:, 2:].contiguous()])
    wide, whole = torch.full((3,), rank + 1.0, dtype=torch.float64), torch.tensor([rank + 1, 10])
    data.sum_([wide, whole])
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), float(rank + 1))
    parameters[1].grad = torch.ones(2) if rank == size - 1 else None
    data.sum_gradients_(parameters)
    try:
        data.refuse_everywhere(f"rank {rank} refuses" if rank >= 2 else "")
        said = ""
    except UserError as error:
        said = str(error)
    data.refuse_everywhere("")
    grads = [None if p.grad is None else p.grad.tolist() for p in parameters]
    return {"max": mine[:, :2].tolist(), "rest": rest.tolist(), "sum": wide.tolist(), "ints": whole.tolist(),
            "grads": grads, "first": data.from_first(f"rank {rank}"), "said": said, "world": data.ranks()}  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    return together(4, talk, 4)


def test_the_maximum_keeps_nan_and_infinities_of_every_rank(answers):
    for answer in answers:
        assert all(math.isnan(row[0]) and row[1] == math.inf for row in answer["max"])
        assert answer["rest"] == [[-math.inf, -1.0 - rank, 7.0 + rank] for rank in range(4)]


def test_sums_are_alike_on_all_ranks_and_a_missing_gradient_counts_as_zero(answers):
    for answer in answers:
        assert (answer["sum"], answer["ints"]) == ([10.0] * 3, [10, 40])
        assert answer["grads"] == [[10.0, 10.0], [1.0, 1.0], None]


def test_ranks_know_their_place_and_take_the_firsts_word(answers):
    assert [answer["world"] for answer in answers] == [data.Ranks(rank, 4) for rank in range(4)]
    assert {answer["first"] for answer in answers} == {"rank 0"}


def test_what_some_ranks_refuse_stops_all_of_them_with_the_first_one_s_sentence(answers):
    assert [answer["said"] for answer in answers] == ["rank 2 refuses"] * 4


def wait_for_the_dead(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(data.RankLost, match="rank 0: another rank is gone"):
        data.from_all(1)
    return time.monotonic() - begun


def test_a_rank_that_dies_frees_the_others_from_waiting():
    (seconds,) = together(2, wait_for_the_dead, dying=1)
    assert seconds < 20


def test_alone_nothing_moves():
    tensor = torch.tensor([1.0, float("nan")])
    data.max_([tensor])
    data.sum_([tensor])
    assert tensor[0] == 1.0
    assert data.from_first(3) == 3
    assert data.ranks() == data.ALONE


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40422",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "[gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:1: Connection reset by peer",
        "writev [127.0.0.1]:1: Broken pipe",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_connection_that_fails_is_a_lost_rank(message):
    def call():
        raise RuntimeError(message)

    with pytest.raises(data.RankLost, match="another rank is gone"):
        data.together(call)


def test_any_other_failure_of_a_collective_keeps_its_own_error():
    def call():
        raise RuntimeError("invalid tensor size at index 0 (expected (2), got (3))")

    with pytest.raises(RuntimeError, match="invalid tensor size"):
        data.together(call)


ROWS, STEPS = 8, 3
CONSTANT = Schedule(start=0.02, phases=(Phase(shape="constant", length=STEPS),))


def rows_of(step):
    return torch.randint(0, 61, (ROWS, 13), generator=torch.Generator().manual_seed(step))


def train(rank, work, micro_batches=1):
    """Three steps in fp64 with clipping, moving biases, a gradient norm; weights, what was seen, the history."""
    model = K2Model(config(num_hidden_layers=2)).double()
    optimizer = MuonClip(model, 0.02, tau=0.5, ns_dtype=torch.float64)
    seen = []

    def objective(model, batch):
        seen.extend(map(tuple, batch["ids"].tolist()))
        logits = model(batch["ids"][:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch["ids"][:, 1:].flatten())
        return loss, {"twice": 2 * loss, "top_max": float(batch["ids"].max())}

    history = train_loop(
        TrainState(model, optimizer), Made(lambda step: {"ids": rows_of(step)}, ROWS), objective, CONSTANT,
        LoopSettings(STEPS, 2, 1, "float32", grad_clip=0.5, heads_every=1, micro_batches=micro_batches), work, "tiny",
        bias_rate_at=lambda step: 0.01,
    )  # fmt: skip
    return {k: v.tolist() for k, v in model.state_dict().items()}, seen, read_history(history)


@pytest.fixture
def alone(tmp_path_factory):
    return train(0, tmp_path_factory.mktemp("alone"), 4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_agree_with_one_process_and_see_the_same_tokens(alone, tmp_path, size):
    results = [train(0, tmp_path)] if size == 1 else together(size, train, tmp_path)
    weights, _, history = alone
    for name, value in weights.items():
        for other in results:
            assert other[0][name] == results[0][0][name], "ranks hold the same bits"
        off = (torch.tensor(results[0][0][name], dtype=torch.float64) - torch.tensor(value, dtype=torch.float64)).abs()
        assert float(off.max()) <= 1e-10, name
    for step in range(STEPS):
        of_step = slice(step * ROWS // size, (step + 1) * ROWS // size)
        seen = [row for other in results for row in other[1][of_step]]
        assert seen == list(map(tuple, rows_of(step).tolist())), "each row once, in the batch's order over ranks"
    for row, expected in zip(results[-1][2], history, strict=True):
        heads, expected_heads = (torch.tensor(of.pop("max_logit_heads")) for of in (row, expected))
        assert row == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(heads, expected_heads, rtol=0, atol=1e-3)
