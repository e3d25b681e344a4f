"""The model trains through the public ops: where tensors go to Triton, loss, maxima and gradients stay the same."""

import pytest
import torch

from engine.model.model import K2Model
from engine.training.language import next_token_loss
from kernels import choice, launching
from tests.engine.tiny import config

IDS = torch.randint(0, 61, (1, 35), generator=torch.Generator().manual_seed(0))
WIDTHS = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32}


def trained():
    model = K2Model(config(num_hidden_layers=2, **WIDTHS))
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
    kernels = {"latent_attention": ("forward", "backward_keys"), "rms_norm": ("forward", "backward")}
    assert {f"{op}._{kernel}" for op, names in kernels.items() for kernel in names} <= set(started)
    monkeypatch.setattr(choice, "INTERPRETED", set())
    torch.testing.assert_close(got, trained(), rtol=1e-4, atol=1e-5)
