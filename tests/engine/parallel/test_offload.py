"""Activations on the host: the same bits, two micro-batches on the device, and faults that the arenas refuse."""

import itertools

import pytest
import torch

from engine.model.activations import FP32, bytes_per_token
from engine.model.model import K2Model
from engine.parallel import arenas
from engine.parallel.arenas import Accounting, EarlyUse, ExcessResidency
from engine.parallel.layout import RESIDENT
from engine.parallel.offload import Offload
from kernels.kept import Memory
from tests.engine.tiny import config

LENGTH, ROWS = 16, 2
SWITCHES = [
    Memory(),
    Memory(frozenset(["norm", "swiglu", "mla_up"])),
    Memory(frozenset(["swiglu"]), fp8=True),
]


def one_forward_one_backward(count, warm_up):
    """The order of a pipeline's rank: `warm_up` forwards ahead, then in turn."""
    order = [("F", n) for n in range(warm_up)]
    for n in range(count):
        order += [("F", n + warm_up)] if n + warm_up < count else []
        order.append(("B", n))
    return order


ORDERS = {
    "in turn": [(kind, n) for n in range(4) for kind in "FB"],
    "1F1B": one_forward_one_backward(7, 3),
    "all forwards first": [("F", n) for n in range(5)] + [("B", n) for n in range(5)],
    "last forward first": [("F", n) for n in range(5)] + [("B", n) for n in reversed(range(5))],
    "two chunks": [("F", n) for n in range(6)] + [("B", n) for n in (3, 4, 5, 0, 1, 2)],
    "any": [("F", n) for n in range(5)] + [("B", n) for n in (2, 0, 4, 1, 3)],
}


def gradients(model, memory, order):
    """The gradients of a step in an order of forwards and backwards, and each micro-batch's loss."""
    model.keep(memory)
    model.train()
    model.zero_grad()
    waiting, losses = {}, {}
    for kind, n in order:
        if kind == "F":
            drawn = torch.randint(0, 61, (ROWS, LENGTH), generator=torch.Generator("cpu").manual_seed(n), device="cpu")
            waiting[n] = model(drawn.to(model.device)).square().mean()
            losses[n] = waiting[n].item()
        else:
            waiting.pop(n).backward()
    return [p.grad.clone() for p in model.parameters()], losses


def with_store(memory, store):
    return Memory(memory.recompute, memory.fp8, store)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("memory", SWITCHES, ids=["kept", "remade", "fp8"])
@pytest.mark.parametrize("late", [0, 7, 1000])
def test_no_bit_changes_and_two_micro_batches_are_resident(order, memory, late):
    model = K2Model(config(), 1)
    here, losses = gradients(model, memory, order)
    accounting = Accounting(RESIDENT, late)
    away, same_losses = gradients(model, with_store(memory, Offload(torch.device("cpu"), accounting)), order)
    assert losses == same_losses
    assert all(map(torch.equal, here, away))
    assert sum(accounting.device.values()) == sum(accounting.host.values()) == 0, "all is freed by the backwards"


@pytest.mark.parametrize("recompute", [(), ("norm", "swiglu", "mla_up")])
def test_the_host_holds_what_the_table_says_and_the_device_nothing(recompute):
    model = K2Model(config(), 1)
    accounting = Accounting(RESIDENT)
    model.keep(Memory(frozenset(recompute), store=Offload(torch.device("cpu"), accounting)))
    model.train()
    loss = model(torch.randint(0, 61, (ROWS, LENGTH))).sum()
    accounting.settle()
    assert not any(accounting.device.values())
    layers = range(model.config.num_hidden_layers)
    expected = sum(
        bytes_per_token(model.config, layer, FP32, LENGTH, recompute=recompute, fused=False) for layer in layers
    )
    besides = len(layers) * 4 * 64 * 64 + LENGTH * 4 * 8  # the masks of the CPU's attention, and the rotation table
    assert sum(accounting.host.values()) - besides == pytest.approx(expected * ROWS * LENGTH, rel=0.02)
    loss.backward()


def test_a_use_that_does_not_wait_is_refused(monkeypatch):
    monkeypatch.setattr(arenas._Late, "wait", lambda copy: None)
    store = Offload(torch.device("cpu"), Accounting(RESIDENT, late=1000))
    with pytest.raises(EarlyUse):
        gradients(K2Model(config(), 1), Memory(store=store), ORDERS["in turn"])


@pytest.mark.parametrize("method", ["_settle", "_keep_here"])
def test_more_than_two_micro_batches_on_the_device_are_refused(monkeypatch, method):
    monkeypatch.setattr(Offload, method, lambda *_: None)
    stores = {name: Offload(torch.device("cpu"), Accounting(RESIDENT, late=1000)) for name in ORDERS}
    with pytest.raises(ExcessResidency):
        _ = [gradients(K2Model(config(), 1), Memory(store=stores[name]), ORDERS[name]) for name in ORDERS]


def test_the_next_micro_batch_comes_back_ahead():
    """With 1F1B every backward but the first finds its tensors there."""
    fetched = []

    class Counted(Accounting):
        def back(self, copy, owner):
            fetched.append(str(owner))
            return super().back(copy, owner)

    store = Offload(torch.device("cpu"), Counted(RESIDENT))
    gradients(K2Model(config(), 1), Memory(store=store), ORDERS["1F1B"])
    assert [name for name, _ in itertools.groupby(fetched)] == [f"micro-batch {n}" for n in range(7)]
    assert len(set(map(fetched.count, fetched))) == 1, "none is fetched twice"


def test_tensors_saved_outside_of_a_micro_batch_are_refused():
    with pytest.raises(RuntimeError, match="outside of any micro-batch"):
        Offload(torch.device("cpu")).put(torch.ones(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_no_loss_changes_and_the_peak_falls():
    peaks, results = [], []
    with torch.device("cuda"):
        model = K2Model(config(hidden_size=512, vocab_size=61, num_hidden_layers=6), 1)
        for store in (None, Offload(torch.device("cuda"))):
            torch.cuda.reset_peak_memory_stats()
            results.append(gradients(model, Memory(store=store), ORDERS["all forwards first"]))
            torch.cuda.synchronize()
            peaks.append(torch.cuda.max_memory_allocated())
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(results[0][0], results[1][0])  # a GPU's sums have a fixed order only after `settle`
    assert peaks[1] < peaks[0]
