"""The model trains through the public ops: where tensors go to Triton, loss, maxima and gradients stay the same."""

import pytest
import torch

from engine.model.model import K2Model
from engine.training.language import next_token_loss
from kernels import choice, launching
from kernels.kept import Memory
from tests.engine.tiny import config

IDS = torch.randint(0, 61, (1, 18), generator=torch.Generator().manual_seed(0))
WIDTHS = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32}


def trained(memory=None):
    model = K2Model(config(num_hidden_layers=2, moe_intermediate_size=128, **WIDTHS))
    model.keep(memory)
    loss = next_token_loss(model, IDS)
    loss.backward()
    maxima = [layer.self_attn.max_logit_H for layer in model.layers.values()]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), maxima, gradients


@pytest.fixture
def started(monkeypatch):
    """Names of the kernels that start, with the CPU's tensors going to Triton."""
    names, start = [], launching._state["start"]

    def counted(kernel, *rest):
        names.append(f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}")
        start(kernel, *rest)

    monkeypatch.setitem(launching._state, "start", counted)
    monkeypatch.setattr(choice, "INTERPRETED", {"cpu"})
    return names


def test_a_training_step_runs_as_kernels_with_the_same_result(started, monkeypatch):
    with choice.strict():
        got = trained()
    kernels = {
        "cross_entropy": ("losses",),
        "swiglu": ("forward", "backward"),
        "latent_attention": ("forward", "backward_keys"),
        "rms_norm": ("forward", "backward"),
    }
    assert {f"{op}._{kernel}" for op, names in kernels.items() for kernel in names} <= set(started)
    monkeypatch.setattr(choice, "INTERPRETED", set())
    torch.testing.assert_close(got, trained(), rtol=1e-4, atol=1e-5)


def test_what_is_made_again_has_the_same_bits(started):
    with choice.strict():
        plain = trained()
        again = trained(Memory(frozenset({"norm", "swiglu", "mla_up"})))
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_storage_in_fp8_is_part_of_swiglu_and_reads_as_torchs(started, monkeypatch):
    memory = Memory(frozenset({"swiglu"}), fp8=True)  # in both forms hidden rows are formed again, from FP8
    with choice.strict():
        got = trained(memory)
    assert "fp8_rows._expand" in started
    assert started.count("fp8_rows._compress") == 5  # gate and up of dense block and shared expert, routed rows' input
    monkeypatch.setattr(choice, "INTERPRETED", set())
    torch.testing.assert_close(got, trained(memory), rtol=1e-2, atol=1e-3)  # some code rounds the other way
