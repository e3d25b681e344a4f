"""The optimizer's state on the host between steps: the same bits, nothing on the device, and refusals in a sentence."""

from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.model.model import K2Model
from engine.optim.groups import is_muon
from engine.optim.muonclip import MuonClip
from engine.parallel import arenas
from engine.parallel.arenas import Accounting, EarlyUse
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.offload import Offload
from engine.training.language import next_token_loss
from engine.training.memory import STATES, States, saving_memory
from engine.training.state import TrainState
from kernels.kept import Memory
from tests.engine.tiny import config

CPU = torch.device("cpu")


def made(dtype=torch.float32, rule=is_muon):
    """A model and its optimizer; bf16 weights have masters."""
    model = K2Model(config(), 3).to(dtype)
    model.train()
    return TrainState(model, MuonClip(model, 0.02, tau=0.01, is_muon=rule))


def stepped(state, states, steps=3):
    """Make steps as the loop does."""
    states.send()
    for step in range(steps):
        ids = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(step))
        next_token_loss(state.model, ids).backward()
        with states.here():
            state.optimizer.step()
        state.optimizer.zero_grad()
    return state


@pytest.mark.parametrize("rule", [is_muon, lambda *_: False], ids=["MuonClip", "AdamW"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("late", [0, 3, 1000])
def test_no_bit_changes_and_nothing_stays_on_the_device(dtype, rule, late):
    plain = made(dtype, rule)
    stepped(plain, States(plain.optimizer, False, CPU))
    state, accounting = made(dtype, rule), Accounting(1, late)
    states = States(state.optimizer, True, CPU, accounting)
    expected = state.optimizer.state_bytes
    stepped(state, states)
    kept = sum(t.nbytes for t in state.optimizer.state_dict().values() if t.is_floating_point() and t.numel() > 1)
    assert kept == expected > 0
    assert (accounting.device[STATES], accounting.host[STATES]) == (0, kept)
    assert_same(state, plain)
    states.bring()
    assert (accounting.device[STATES], accounting.host[STATES]) == (kept, 0)
    assert_same(state, plain)


def assert_same(state, other):
    ours, theirs = state.tensors(), other.tensors()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_what_is_reset_or_loaded_on_the_host_counts_in_the_next_step():
    """Reinforcement learning resets the state between steps, and a checkpoint is loaded before the first."""
    plain, state = made(), made()
    here, away = States(plain.optimizer, False, CPU), States(state.optimizer, True, CPU)
    for each, states in ((plain, here), (state, away)):
        stepped(each, states)
        each.optimizer.forget()
        stepped(each, states, 1)
        again = {name: tensor.clone() for name, tensor in each.optimizer.state_dict().items()}
        stepped(each, states, 1)
        each.optimizer.load_state_dict(again)
        states.send()
        stepped(each, states, 1)
    assert_same(state, plain)


def test_a_state_used_before_it_has_arrived_is_refused(monkeypatch):
    monkeypatch.setattr(arenas._Late, "wait", lambda copy: None)
    state = made()
    with pytest.raises(EarlyUse):
        stepped(state, States(state.optimizer, True, CPU, Accounting(1, late=1000)))


@pytest.fixture
def little(monkeypatch, tmp_path) -> Path:
    """A host that has 10 KiB free."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       64 kB\nMemAvailable:   10 kB\n")
    monkeypatch.setattr(arenas, "MEMINFO", meminfo)
    return meminfo


@pytest.mark.parametrize("rule", [is_muon, lambda *_: False], ids=["MuonClip", "AdamW"])
def test_a_host_without_memory_is_refused_before_a_step(little, rule):
    """AdamW makes its moments in the first step, and they count before it."""
    words = r"^compute\.yml: field layout\.offload: optimizer keeps .* GiB of the optimizer's state .* GiB free: take"
    with pytest.raises(UserError, match=words):
        saving_memory(made(rule=rule), Layout(offload=("optimizer",)))
    saving_memory(made(), WHOLE)


def test_a_host_without_memory_for_all_micro_batches_is_refused_after_the_first(little):
    model = K2Model(config(), 1)
    ids = torch.zeros(2, 16, dtype=torch.int64)
    model.keep(Memory(store=Offload(CPU)))
    model(ids).sum().backward()
    model.keep(Memory(store=Offload(CPU, in_flight=8)))
    with pytest.raises(UserError, match="offload: activations keeps .* of activations on the host"):
        model(ids)


def test_a_layout_switches_on_what_it_names():
    state = made()
    layout = Layout(recompute=("norm", "mla_up"), fp8_storage=True, offload=("activations",))
    assert saving_memory(state, layout).arenas is None
    memory = state.model.blocks[0].memory
    assert (memory.recompute, memory.fp8, type(memory.store)) == ({"norm", "mla_up"}, True, Offload)
    assert all(block.memory is memory for block in state.model.blocks)
    saving_memory(state, WHOLE)
    assert all(block.memory is None for block in state.model.blocks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_the_state_leaves_the_device():
    with torch.device("cuda"):
        state = made()
    states = States(state.optimizer, True, torch.device("cuda"))
    states.send()
    before = torch.cuda.memory_allocated()
    states.bring()
    held = sum(tensor.nbytes for tensor in states._tensors())
    assert torch.cuda.memory_allocated() - before >= held
    states.send()
    assert torch.cuda.memory_allocated() == before
